/* The load: many Server-Sent Events clients in one process, cheap enough to share the machine.

   load --port N --path PATH --clients N [options]; prints one JSON object at its end,
   which SIGTERM brings on.

   Every byte is read as a client would read it: HTTP chunks, lines, frames. An event counts when
   its blank line has come; its `"seq":` must follow the client's last one (else events are missing
   or doubled), and its `"ts":` (ns, real time) gives the latency. What is easily missed: a client
   that comes back brings the id of its last whole event, and its numbers must join there as well.

   Options:
     --paths FILE        a path per line, dealt to the clients in turn, in place of --path
     --header TEXT       a further request header
     --opaque 1          bodies are compressed: only bytes and chunks are counted, not events
     --last-event-id ID  where clients begin that have no id of their own yet
     --connect-s S       connect evenly over this time (0: all at once)
     --warm-s S          time after connecting that is not measured
     --seconds S         time that is measured
     --until-seq N       measure until every client has seen N (at most --seconds), then for --linger-s
     --from-seq N        the first number that every client must get
     --never-read N      so many of the clients never read
     --pids P[,P]        processes whose processor time and memory are measured
     --sample-every N    latency of every nth event (37)
     --then-port N       where a client goes when its stream has ended, after the delay of `retry:`
     --record FILE       write each event as four int64: client, number, ns made, ns received
     --churn-s S         clients stay about S, then leave, reset or stop reading, and come back
     --seed N            of what --churn-s does */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum {
  LINE_MAX_BYTES = 1024, /* of a line, what is kept: the head of data, the whole of an id */
  PATHS_MAX = 1024,
  PIDS_MAX = 16,
  SAMPLES_MAX = 4000000,
  SOURCES = 200,    /* loopback addresses to connect from; each has its own ports */
  READS_MAX = 8,    /* of one client in its turn, so that none starves the others */
  SMALL_BUFFER = 8192,
  INTERNET_SEGMENT = 1448, /* loopback's 64 KiB segments would make send buffers of megabytes */
};

struct record { /* of one event at one client, as --record writes it */
  int64_t client, seq, made_ns, received_ns;
};

static const double TICK_S = 0.01, STALL_LONGEST_S = 8, RETRY_DEFAULT_S = 0.5;

enum state { AWAY, CONNECTING, HEAD, CHUNK_SIZE, CHUNK, CHUNK_END, LAST_CHUNK, STALLING };

struct client {
  int fd, line_bytes, id_bytes, new_id_bytes;
  enum state state, resumes; /* `resumes`: the state before it stopped reading */
  bool has_data, is_whole, is_refused, was_here, reads;
  int64_t chunk_left, seq, new_seq, new_ts, events;
  double due_s, retry_s, until_s; /* due_s: when it acts next; until_s: when it saw --until-seq */
  char *line, *id, *new_id;
};

static struct {
  int port, then_port, clients, never_read, opaque, sample_every, pid_count, path_count;
  double connect_s, warm_s, seconds, linger_s, churn_s;
  int64_t until_seq, from_seq;
  const char *header, *last_event_id, *record, *paths[PATHS_MAX];
  int pids[PIDS_MAX];
} set = {.sample_every = 37, .seconds = 5, .linger_s = 1, .until_seq = -1, .from_seq = -1};

static struct {
  long events, bytes, missing, doubled, gaps, errors, torn_chunks, torn_ends, whole_ends, refused,
      failed, lost, came, left, reset, stalled, ids_cut;
} seen;

static struct client *clients;
static int poller, opened;
static double began_s;
static int64_t newest_seq = -1;
static float samples[SAMPLES_MAX];
static int sample_count;
static FILE *record_file;
static volatile sig_atomic_t told_to_end;

static double now_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec + now.tv_nsec / 1e9;
}

static void fail(const char *what) {
  fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
  exit(1);
}

/* What the measured processes use. */

static double cpu_s(void) {
  double sum = 0;
  for (int i = 0; i < set.pid_count; i++) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", set.pids[i]);
    FILE *file = fopen(path, "r");
    if (!file)
      continue;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    unsigned long user = 0, system = 0;
    char *after_name = strrchr(text, ')');
    if (after_name)
      sscanf(after_name + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    sum += (double)(user + system) / sysconf(_SC_CLK_TCK);
  }
  return sum;
}

static long memory_kib(void) {
  long sum = 0;
  for (int i = 0; i < set.pid_count; i++) {
    char path[64], line[256];
    long kib = 0;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", set.pids[i]);
    FILE *file = fopen(path, "r");
    if (!file)
      continue;
    while (fgets(line, sizeof line, file) && sscanf(line, "Pss: %ld", &kib) != 1)
      ;
    fclose(file);
    sum += kib;
  }
  return sum;
}

/* Connections. */

static void watch(struct client *c, int operation, uint32_t events) {
  struct epoll_event event = {.events = events, .data.u32 = (uint32_t)(c - clients)};
  if (epoll_ctl(poller, operation, c->fd, &event))
    fail("epoll_ctl");
}

static void forget_frame(struct client *c) {
  c->line_bytes = c->new_id_bytes = 0;
  c->has_data = false;
  c->new_seq = c->new_ts = -1;
}

static void start_connecting(struct client *c, double now) {
  int index = (int)(c - clients), on = 1;
  struct sockaddr_in from = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(0x7f000002 + index % SOURCES)};
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int port = c->was_here && set.then_port ? set.then_port : set.port;
  to.sin_port = htons((uint16_t)port);
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (c->fd < 0)
    fail("socket");
  setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  bind(c->fd, (void *)&from, sizeof from);
  if (!c->reads || set.churn_s > 0) { /* as over the Internet, so that a stall is soon felt */
    int buffer = SMALL_BUFFER, segment = INTERNET_SEGMENT;
    setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    setsockopt(c->fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
  }
  if (connect(c->fd, (void *)&to, sizeof to) && errno != EINPROGRESS) {
    seen.failed++;
    close(c->fd);
    c->due_s = now + RETRY_DEFAULT_S;
    return;
  }
  c->state = CONNECTING;
  watch(c, EPOLL_CTL_ADD, EPOLLOUT);
}

static void ask(struct client *c) {
  char request[4096];
  int index = (int)(c - clients);
  int size = snprintf(request, sizeof request,
                      "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n",
                      set.paths[index % set.path_count]);
  if (c->id_bytes)
    size += snprintf(request + size, sizeof request - size, "Last-Event-ID: %.*s\r\n", c->id_bytes,
                     c->id);
  else if (set.last_event_id)
    size += snprintf(request + size, sizeof request - size, "Last-Event-ID: %s\r\n",
                     set.last_event_id);
  if (set.header)
    size += snprintf(request + size, sizeof request - size, "%s\r\n", set.header);
  size += snprintf(request + size, sizeof request - size, "\r\n");
  if (write(c->fd, request, size) != size)
    seen.failed++;
}

static double chance(void) { return rand() / (RAND_MAX + 1.0); }

static void end_connection(struct client *c, double now, bool with_reset) {
  if (with_reset) {
    struct linger at_once = {1, 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  }
  close(c->fd);
  opened -= c->state > CONNECTING;
  c->fd = -1;
  c->state = AWAY;
  c->was_here = true;
  c->due_s = INFINITY;
  if (set.then_port)
    c->due_s = now + c->retry_s;
  else if (set.churn_s > 0)
    c->due_s = now + 0.1 + 2 * chance();
}

/* The server ended the connection: at the end of a response, or in its middle. */
static void on_end(struct client *c, double now) {
  if (c->state == CONNECTING || c->state == HEAD) {
    seen.failed++;
  } else {
    seen.lost++;
    bool between_frames = !c->line_bytes && !c->has_data && !c->new_id_bytes;
    if (c->is_whole)
      seen.whole_ends++;
    if (!between_frames)
      seen.torn_ends++;
  }
  end_connection(c, now, false);
}

/* What comes in: lines of the response's head, then chunks, in them the lines of the stream. */

static int64_t number_after(const char *text, int bytes, const char *key) {
  const char *found = memmem(text, bytes, key, strlen(key));
  return found ? strtoll(found + strlen(key), NULL, 10) : -1;
}

static void on_event(struct client *c, double now) {
  int64_t seq = c->new_seq;
  seen.events++;
  c->events++;
  if (c->seq < 0 && set.from_seq >= 0)
    c->seq = set.from_seq - 1;
  if (c->seq >= 0 && seq <= c->seq)
    seen.doubled++;
  else if (c->seq >= 0)
    seen.missing += seq - c->seq - 1;
  if (seq > c->seq)
    c->seq = seq;
  if (seq > newest_seq)
    newest_seq = seq;
  if (set.until_seq >= 0 && c->seq >= set.until_seq && !c->until_s)
    c->until_s = now;
  if (record_file) {
    struct record record = {c - clients, seq, c->new_ts, (int64_t)(now * 1e9)};
    fwrite(&record, sizeof record, 1, record_file);
  }
  if (seen.events % set.sample_every == 0 && sample_count < SAMPLES_MAX)
    samples[sample_count++] = (float)(now - c->new_ts / 1e9);
}

static void on_blank_line(struct client *c, double now) {
  if (c->has_data && c->new_seq >= 0)
    on_event(c, now);
  if (c->has_data && c->new_id_bytes) {
    memcpy(c->id, c->new_id, c->new_id_bytes);
    c->id_bytes = c->new_id_bytes;
  }
  forget_frame(c);
}

static void on_line(struct client *c, const char *line, int bytes, double now) {
  if (!bytes) {
    on_blank_line(c, now);
  } else if (bytes > 5 && !memcmp(line, "data:", 5)) {
    int head = bytes < 200 ? bytes : 200;
    c->has_data = true;
    c->new_seq = number_after(line, head, "\"seq\":");
    c->new_ts = number_after(line, head, "\"ts\":");
  } else if (bytes > 4 && !memcmp(line, "id: ", 4)) {
    if (bytes - 4 > LINE_MAX_BYTES - 4) {
      seen.ids_cut++;
      return;
    }
    c->new_id_bytes = bytes - 4;
    memcpy(c->new_id, line + 4, c->new_id_bytes);
  } else if (bytes > 7 && !memcmp(line, "retry: ", 7)) {
    c->retry_s = strtol(line + 7, NULL, 10) / 1000.0;
  } else if (bytes > 7 && !memcmp(line, "event: ", 7)) {
    if (!memcmp(line + 7, "gap", 3)) { /* the next event need not follow the last one */
      seen.gaps++;
      c->seq = -1;
    }
    seen.errors += !memcmp(line + 7, "error", 5);
  }
}

/* Takes bytes up to and with the next line end; returns how many. `*whole` if there was one. */
static int take_line(struct client *c, const char *bytes, int count, const char **line,
                     int *line_bytes, bool *whole) {
  const char *end = memchr(bytes, '\n', count);
  int taken = end ? (int)(end - bytes) : count;
  *whole = end != NULL;
  if (end && !c->line_bytes) {
    *line = bytes;
    *line_bytes = taken;
    return taken + 1;
  }
  int room = LINE_MAX_BYTES - c->line_bytes;
  int kept = taken < room ? taken : room;
  memcpy(c->line + c->line_bytes, bytes, kept > 0 ? kept : 0);
  c->line_bytes += kept;
  if (!end)
    return taken;
  *line = c->line;
  *line_bytes = c->line_bytes;
  c->line[c->line_bytes] = 0;
  c->line_bytes = 0;
  return taken + 1;
}

static int take_head(struct client *c, const char *bytes, int count) {
  const char *line;
  int line_bytes;
  bool whole;
  int taken = take_line(c, bytes, count, &line, &line_bytes, &whole);
  if (!whole)
    return taken;
  if (line_bytes > 12 && !memcmp(line, "HTTP/1.1 ", 9) && memcmp(line + 9, "200", 3))
    c->is_refused = true;
  if (line_bytes <= 1) { /* only the CR */
    c->state = CHUNK_SIZE;
    c->chunk_left = 0;
  }
  return taken;
}

static int take_chunk(struct client *c, const char *bytes, int count, double now) {
  int most = c->chunk_left < count ? (int)c->chunk_left : count, at = 0;
  if (set.opaque)
    at = most;
  while (at < most) {
    const char *line;
    int line_bytes;
    bool whole;
    at += take_line(c, bytes + at, most - at, &line, &line_bytes, &whole);
    if (whole)
      on_line(c, line, line_bytes, now);
  }
  c->chunk_left -= most;
  if (!c->chunk_left) {
    seen.torn_chunks += c->line_bytes > 0;
    c->state = CHUNK_END;
  }
  return most;
}

static void take(struct client *c, const char *bytes, int count, double now) {
  for (int at = 0; at < count;) {
    switch (c->state) {
    case HEAD:
      at += take_head(c, bytes + at, count - at);
      break;
    case CHUNK_SIZE: {
      char digit = bytes[at++];
      if (isxdigit(digit))
        c->chunk_left = c->chunk_left * 16 + (isdigit(digit) ? digit - '0' : (digit | 32) - 'a' + 10);
      else if (digit == '\n')
        c->state = c->chunk_left ? CHUNK : LAST_CHUNK;
      break;
    }
    case CHUNK:
      at += take_chunk(c, bytes + at, count - at, now);
      break;
    case CHUNK_END:
      if (bytes[at++] == '\n') {
        c->state = CHUNK_SIZE;
        c->chunk_left = 0;
      }
      break;
    case LAST_CHUNK:
      if (bytes[at++] == '\n')
        c->is_whole = true;
      break;
    default:
      return;
    }
  }
}

static void on_ready(struct client *c, uint32_t events, double now) {
  static char bytes[1 << 18];
  if (c->state == CONNECTING) {
    if (events & (EPOLLERR | EPOLLHUP)) {
      on_end(c, now);
      return;
    }
    ask(c);
    opened++;
    seen.came++;
    c->state = HEAD;
    c->is_whole = c->is_refused = false;
    c->retry_s = RETRY_DEFAULT_S;
    c->due_s = set.churn_s > 0 ? now - log(1 - chance()) * set.churn_s : INFINITY;
    forget_frame(c);
    if (c->reads)
      watch(c, EPOLL_CTL_MOD, EPOLLIN);
    else
      epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
    return;
  }
  for (int i = 0; i < READS_MAX; i++) {
    ssize_t got = read(c->fd, bytes, sizeof bytes);
    if (got < 0 && errno == EAGAIN)
      return;
    if (got <= 0) {
      on_end(c, now);
      return;
    }
    seen.bytes += got;
    take(c, bytes, (int)got, now);
    if (c->is_refused) {
      seen.refused++;
      end_connection(c, now, false);
      return;
    }
    if (c->is_whole) { /* the response is over, whether or not the connection is */
      on_end(c, now);
      return;
    }
    if (got < (ssize_t)sizeof bytes)
      return;
  }
}

/* One of the things that clients do when they do not simply stay. */
static void misbehave(struct client *c, double now) {
  double what = chance();
  if (what < 0.4) {
    seen.left++;
    if (what < 0.1) { /* for good: the next one that comes is another */
      c->id_bytes = 0;
      c->seq = -1;
    }
    end_connection(c, now, false);
  } else if (what < 0.6) {
    seen.reset++;
    end_connection(c, now, true);
  } else {
    seen.stalled++;
    c->resumes = c->state;
    c->state = STALLING;
    c->due_s = now + 1 + chance() * (STALL_LONGEST_S - 1);
    epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
  }
}

static void act_if_due(struct client *c, double now) {
  if (now < c->due_s)
    return;
  if (c->state == AWAY) {
    start_connecting(c, now);
  } else if (c->state == STALLING) {
    c->state = c->resumes;
    c->due_s = now - log(1 - chance()) * set.churn_s;
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
  } else if (c->state > HEAD) {
    misbehave(c, now);
  }
}

/* The run. */

static bool all_there(void) {
  for (int i = 0; i < set.clients; i++)
    if (clients[i].reads && !clients[i].until_s)
      return false;
  return true;
}

static void turn(void) {
  static struct epoll_event ready[1024];
  static double ticked_s;
  int count = epoll_wait(poller, ready, 1024, (int)(TICK_S * 1000));
  for (int i = 0; i < count; i++)
    on_ready(&clients[ready[i].data.u32], ready[i].events, now_s());
  double now = now_s();
  if (now - ticked_s < TICK_S)
    return;
  ticked_s = now;
  for (int i = 0; i < set.clients; i++)
    act_if_due(&clients[i], now);
}

static int ascending(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

static double percentile_ms(double share) {
  return sample_count ? samples[(int)((sample_count - 1) * share)] * 1000.0 : 0;
}

static int by_until(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void print_until(void) {
  double *times = calloc(set.clients, sizeof *times);
  int there = 0;
  for (int i = 0; i < set.clients; i++)
    if (clients[i].until_s)
      times[there++] = clients[i].until_s - began_s;
  qsort(times, there, sizeof *times, by_until);
  printf("\"there\":%d,\"until_s\":%.3f,\"until_first_s\":%.3f,\"until_median_s\":%.3f,", there,
         there ? times[there - 1] : 0, there ? times[0] : 0, there ? times[there / 2] : 0);
}

static double own_cpu_s(void) {
  struct rusage use;
  getrusage(RUSAGE_SELF, &use);
  return use.ru_utime.tv_sec + use.ru_stime.tv_sec +
         (use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

static void prepare(void) {
  poller = epoll_create1(0);
  if (set.record && !(record_file = fopen(set.record, "wb")))
    fail(set.record);
  clients = calloc(set.clients, sizeof *clients);
  for (int i = 0; i < set.clients; i++) {
    struct client *c = &clients[i];
    char *text = malloc(3 * (LINE_MAX_BYTES + 1));
    if (!text)
      fail("malloc");
    c->fd = -1;
    c->seq = -1;
    c->reads = i < set.clients - set.never_read;
    c->due_s = began_s + set.connect_s * i / set.clients;
    c->line = text;
    c->id = text + LINE_MAX_BYTES + 1;
    c->new_id = text + 2 * (LINE_MAX_BYTES + 1);
  }
}

static void run_until(double end_s) {
  while (now_s() < end_s)
    turn();
}

static void on_signal(int number) {
  (void)number;
  told_to_end = 1;
}

static void measure(void) {
  long memory_before_kib = memory_kib();
  began_s = now_s();
  prepare();
  run_until(began_s + set.connect_s + set.warm_s);

  seen.events = seen.bytes = sample_count = 0;
  for (int i = 0; i < set.clients; i++)
    clients[i].events = 0;
  int64_t newest_before = newest_seq;
  double cpu_before_s = cpu_s(), own_before_s = own_cpu_s(), start_s = now_s();
  while (!told_to_end && now_s() < start_s + set.seconds && !(set.until_seq >= 0 && all_there()))
    turn();
  double took_s = now_s() - start_s, cpu_used_s = cpu_s() - cpu_before_s;
  double own_s = own_cpu_s() - own_before_s;
  long events = seen.events, bytes = seen.bytes, memory_after_kib = memory_kib();
  if (set.until_seq >= 0)
    run_until(now_s() + set.linger_s);

  int64_t oldest = INT64_MAX, fewest = INT64_MAX, most = 0;
  for (int i = 0; i < set.clients - set.never_read; i++) {
    struct client *c = &clients[i];
    oldest = c->seq < oldest ? c->seq : oldest;
    fewest = c->events < fewest ? c->events : fewest;
    most = c->events > most ? c->events : most;
  }
  if (record_file && fclose(record_file))
    fail(set.record);
  double due = (double)(newest_seq - newest_before) * (set.clients - set.never_read);
  qsort(samples, sample_count, sizeof *samples, ascending);
  printf("{\"open\":%d,\"seconds\":%.3f,", opened, took_s);
  printf("\"events\":%ld,\"events_s\":%.1f,\"events_min\":%ld,\"events_max\":%ld,", events,
         events / took_s, fewest, most);
  printf("\"delivered\":%.5f,\"behind\":%ld,\"newest\":%ld,",
         newest_before >= 0 && due > 0 ? events / due : 0, newest_seq - oldest, newest_seq);
  printf("\"bytes\":%ld,\"missing\":%ld,\"doubled\":%ld,\"gaps\":%ld,\"errors\":%ld,", bytes,
         seen.missing, seen.doubled, seen.gaps, seen.errors);
  printf("\"refused\":%ld,\"failed\":%ld,\"lost\":%ld,\"whole_ends\":%ld,\"torn_ends\":%ld,",
         seen.refused, seen.failed, seen.lost, seen.whole_ends, seen.torn_ends);
  printf("\"torn_chunks\":%ld,\"ids_cut\":%ld,", seen.torn_chunks, seen.ids_cut);
  printf("\"came\":%ld,\"left\":%ld,\"reset\":%ld,\"stalled\":%ld,", seen.came, seen.left,
         seen.reset, seen.stalled);
  if (set.until_seq >= 0)
    print_until();
  printf("\"cpu_s\":%.3f,\"us_per_event\":%.3f,\"load_cpu_s\":%.3f,", cpu_used_s,
         events ? cpu_used_s / events * 1e6 : 0, own_s);
  printf("\"kib_per_client\":%.2f,", (memory_after_kib - memory_before_kib) / (double)set.clients);
  printf("\"samples\":%d,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f}\n", sample_count,
         percentile_ms(0.5), percentile_ms(0.99), percentile_ms(1));
}

static void read_options(int count, char **words) {
  srand(1);
  for (int i = 1; i + 1 < count; i += 2) {
    const char *name = words[i], *value = words[i + 1];
    if (!strcmp(name, "--port")) set.port = atoi(value);
    else if (!strcmp(name, "--then-port")) set.then_port = atoi(value);
    else if (!strcmp(name, "--path")) set.paths[set.path_count++] = value;
    else if (!strcmp(name, "--paths")) {
      FILE *file = fopen(value, "r");
      char *line = NULL;
      size_t size = 0;
      if (!file)
        fail(value);
      while (set.path_count < PATHS_MAX && getline(&line, &size, file) > 0)
        set.paths[set.path_count++] = strndup(line, strcspn(line, "\r\n"));
      fclose(file);
    } else if (!strcmp(name, "--clients")) set.clients = atoi(value);
    else if (!strcmp(name, "--never-read")) set.never_read = atoi(value);
    else if (!strcmp(name, "--header")) set.header = value;
    else if (!strcmp(name, "--opaque")) set.opaque = atoi(value);
    else if (!strcmp(name, "--last-event-id")) set.last_event_id = value;
    else if (!strcmp(name, "--connect-s")) set.connect_s = atof(value);
    else if (!strcmp(name, "--warm-s")) set.warm_s = atof(value);
    else if (!strcmp(name, "--seconds")) set.seconds = atof(value);
    else if (!strcmp(name, "--linger-s")) set.linger_s = atof(value);
    else if (!strcmp(name, "--record")) set.record = value;
    else if (!strcmp(name, "--churn-s")) set.churn_s = atof(value);
    else if (!strcmp(name, "--until-seq")) set.until_seq = atoll(value);
    else if (!strcmp(name, "--from-seq")) set.from_seq = atoll(value);
    else if (!strcmp(name, "--sample-every")) set.sample_every = atoi(value);
    else if (!strcmp(name, "--seed")) srand((unsigned)atoi(value));
    else if (!strcmp(name, "--pids")) {
      char *list = strdup(value);
      for (char *pid = strtok(list, ","); pid && set.pid_count < PIDS_MAX; pid = strtok(NULL, ","))
        set.pids[set.pid_count++] = atoi(pid);
    } else {
      fprintf(stderr, "load: unknown option %s\n", name);
      exit(2);
    }
  }
  if (!set.port || !set.path_count || set.clients <= 0) {
    fprintf(stderr, "load: --port, --path and --clients are needed\n");
    exit(2);
  }
}

int main(int count, char **words) {
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlives who started it */
  signal(SIGPIPE, SIG_IGN);
  signal(SIGTERM, on_signal);
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  read_options(count, words);
  measure();
  return 0;
}
