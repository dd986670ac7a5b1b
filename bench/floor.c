/* The floor of fan-out: each frame to every connection by a bare write() loop.

   floor --rate EVENTS_PER_S --frame-bytes N [--backlog N]

   Listens on a free port of 127.0.0.1, prints it as JSON, and sends frames of that many bytes (one
   HTTP chunk each, as the gateway does, chunk framing not counted) whose data begins with the time
   and a number. What a gateway costs above this, it adds itself. A connection that is full or gone
   is closed: the floor has no slow clients. With --backlog, each connection first receives so many
   frames as fast as it reads them, in writes of many frames. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 20000, FRAME_BYTES_MAX = 1 << 20, WRITE_BYTES = 128 << 10 };

static const int64_t SECOND_NS = 1000000000, FIRST_SEQ = 1000000;
static const char HEAD[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                           "transfer-encoding: chunked\r\n\r\n5\r\n:ok\n\n\r\n";

static int connections[CONNECTIONS_MAX];
static int connected;
static char frame[FRAME_BYTES_MAX + 64];

static int64_t clock_ns(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * SECOND_NS + now.tv_nsec;
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static int listen_somewhere(int *port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (listener < 0 || bind(listener, (void *)&address, sizeof address) || listen(listener, 4096))
    fail("listen");
  getsockname(listener, (void *)&address, &size);
  *port = ntohs(address.sin_port);
  return listener;
}

static int make_frame(int frame_bytes, int64_t seq) {
  int64_t now_ns = clock_ns(CLOCK_REALTIME);
  int head = sprintf(frame, "%x\r\nevent: message\ndata: {\"ts\":%ld,\"seq\":%ld,\"text\":\"",
                     frame_bytes, now_ns, seq);
  int size = head - (int)(strchr(frame, '\n') + 1 - frame);
  char id[128];
  int id_size = sprintf(id, "\"}\nid: [{\"topic\":\"eqiad.mediawiki.recentchange\",\"partition\":0,"
                        "\"offset\":%ld,\"timestamp\":%ld}]\n\n", seq, now_ns / 1000000);
  int text = frame_bytes - size - id_size;
  if (text < 0)
    fail("--frame-bytes is too small");
  memset(frame + head, 'x', text);
  memcpy(frame + head + text, id, id_size);
  memcpy(frame + head + text + id_size, "\r\n", 2);
  return head + text + id_size + 2;
}

static void write_whole(int fd, const char *bytes, int size) {
  while (size > 0) {
    ssize_t written = write(fd, bytes, size);
    if (written < 0)
      return; /* the client is gone, which the next write to all notices too */
    bytes += written;
    size -= written;
  }
}

static void send_backlog(int fd, int frame_bytes, int64_t count) {
  static char bytes[WRITE_BYTES + sizeof frame];
  int size = 0;
  for (int64_t n = 0; n < count; n++) {
    int added = make_frame(frame_bytes, FIRST_SEQ + n);
    memcpy(bytes + size, frame, added);
    size += added;
    if (size >= WRITE_BYTES || n == count - 1) {
      write_whole(fd, bytes, size);
      size = 0;
    }
  }
}

static void accept_all(int listener, int frame_bytes, int64_t backlog) {
  int fd;
  while ((fd = accept4(listener, NULL, NULL, backlog ? 0 : SOCK_NONBLOCK)) >= 0) {
    if (connected == CONNECTIONS_MAX || write(fd, HEAD, sizeof HEAD - 1) < 0) {
      close(fd);
      continue;
    }
    send_backlog(fd, frame_bytes, backlog);
    connections[connected++] = fd;
  }
}

static void send_to_all(const char *bytes, int size) {
  for (int i = 0; i < connected; i++) {
    if (write(connections[i], bytes, size) == size)
      continue;
    close(connections[i]);
    connections[i--] = connections[--connected];
  }
}

int main(int count, char **words) {
  double rate = 0;
  int frame_bytes = 0, port;
  int64_t backlog = 0;
  for (int i = 1; i + 1 < count; i += 2) {
    if (!strcmp(words[i], "--rate"))
      rate = atof(words[i + 1]);
    else if (!strcmp(words[i], "--frame-bytes"))
      frame_bytes = atoi(words[i + 1]);
    else if (!strcmp(words[i], "--backlog"))
      backlog = atoll(words[i + 1]);
  }
  if (rate <= 0 || frame_bytes <= 0 || frame_bytes > FRAME_BYTES_MAX) {
    fprintf(stderr, "usage: floor --rate EVENTS_PER_S --frame-bytes N [--backlog N]\n");
    return 2;
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlives who started it */
  signal(SIGPIPE, SIG_IGN);
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);

  int listener = listen_somewhere(&port);
  printf("{\"ready\":true,\"port\":%d,\"pid\":%d}\n", port, getpid());
  fflush(stdout);

  int64_t seq = FIRST_SEQ + backlog, due_ns = clock_ns(CLOCK_MONOTONIC);
  for (;;) {
    due_ns += (int64_t)(SECOND_NS / rate);
    int64_t ahead_ns;
    while ((ahead_ns = due_ns - clock_ns(CLOCK_MONOTONIC)) > 0) {
      struct pollfd ready = {.fd = listener, .events = POLLIN};
      struct timespec wait = {ahead_ns / SECOND_NS, ahead_ns % SECOND_NS};
      if (ppoll(&ready, 1, &wait, NULL) > 0)
        accept_all(listener, frame_bytes, backlog);
    }
    send_to_all(frame, make_frame(frame_bytes, seq++));
  }
}
