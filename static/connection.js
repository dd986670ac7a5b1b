// Reads one stream with fetch, as fast as its caller takes the frames; reconnects with the last id
// after each disconnect, and describes its state in words.
//
// It uses fetch instead of EventSource, because the page replays at its own pace: events that it has
// not read yet stay at the gateway and take no memory here. The status and text of refusals are also
// available.

const RETRY_MS = [1000, 30_000];
const SILENT_MS = 120_000; // heartbeats come several times as often

// Whether a request with this status may succeed later; 0 stands for no answer at all.
export function isPassing(status) {
  return status === 0 || status === 429 || status >= 500;
}

// How long to wait after so many failures in a row.
export function backOffMs(failures) {
  const [least, most] = RETRY_MS;
  return Math.min(most, least * 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
}

export class Connection {
  // `url` has no id. `id` is where to begin, instead of where the URL says. `headers` is a function.
  // `onState({ kind, text })`: kind is connecting, open, waiting, ended or refused.
  constructor({ url, id = null, headers = () => ({}), onState = () => {} }) {
    this.url = url;
    this.id = id;
    this._headers = headers;
    this._onState = onState;
    this._closed = false;
    this._failures = 0;
    this._retryMs = null;
    this._abort = null;
    this._wake = null;
    this._holdUntil = 0;
  }

  // Yields { type, data, id } until the stream ends, is refused or is closed. Frames that carry an
  // id alone are kept for resuming, and not yielded.
  async *frames() {
    while (!this._closed) {
      try {
        if (this._holdUntil > Date.now()) throw new Error('cut');
        this._onState({ kind: 'connecting', text: this.id ? 'Resuming …' : 'Connecting …' });
        const response = await this._ask();
        if (response === null) return;
        this._failures = 0;
        this._onState({ kind: 'open', text: 'Connected' });
        yield* this._read(response.body.getReader());
        if (this._closed) return;
        await this._wait('The gateway has ended the connection');
      } catch (error) {
        if (this._closed) return;
        const cut = this._holdUntil > Date.now();
        const isOurs = !(error instanceof TypeError || error instanceof DOMException);
        const why = isOurs ? ` (${error.message})` : ''; // the browser's words would not help
        await this._wait(cut ? 'Connection cut' : `Connection lost${why}`);
      }
    }
  }

  // Drops the connection as a broken network would, and reconnects after a while. Before the first
  // connection, it only waits.
  cut(forMs) {
    this._holdUntil = Date.now() + forMs;
    this._abort?.abort();
  }

  // Ends a wait before the next attempt.
  retryNow() {
    this._holdUntil = 0;
    this._wake?.();
  }

  close() {
    this._closed = true;
    this._abort?.abort();
    this._wake?.();
  }

  async _ask() {
    this._abort = new AbortController();
    // More than one type: for text/event-stream alone, refusals have a form for EventSource.
    const accept = { Accept: 'text/event-stream, application/json;q=0.5' };
    const resumed = this.id ? { 'Last-Event-ID': this.id } : {}; // which wins over `since`
    const headers = { ...accept, ...resumed, ...this._headers() };
    const response = await fetch(this.url, {
      headers,
      signal: this._abort.signal,
      cache: 'no-store',
    });
    if (response.status === 204) {
      this._onState({ kind: 'ended', text: 'The stream has reached its end' });
      return null;
    }
    if (response.ok) return response;
    const reason = await refusal(response);
    if (isPassing(response.status)) {
      const after = Number(response.headers.get('retry-after'));
      if (after) this._retryMs = after * 1000;
      throw new Error(reason);
    }
    this._onState({ kind: 'refused', text: reason, status: response.status });
    return null;
  }

  async *_read(reader) {
    const parser = new Parser();
    const decoder = new TextDecoder();
    const watch = new Watch(() => this._abort.abort());
    try {
      for (;;) {
        watch.begin();
        const { done, value } = await reader.read();
        watch.end();
        if (done) return;
        for (const frame of parser.feed(decoder.decode(value, { stream: true }))) {
          if (frame.retryMs !== undefined) this._retryMs = frame.retryMs;
          if (frame.id) this.id = frame.id;
          if (frame.data !== undefined) yield frame;
        }
      }
    } finally {
      watch.end();
      reader.cancel().catch(() => {});
    }
  }

  async _wait(why) {
    this._failures += 1;
    const wait = this._retryMs ?? backOffMs(this._failures);
    const left = Math.max(wait, this._holdUntil - Date.now());
    this._retryMs = null;
    const until = Date.now() + left;
    this._onState({ kind: 'waiting', text: why, until });
    await new Promise((resolve) => {
      const online = () => resolve();
      const timer = setTimeout(resolve, left);
      this._wake = resolve;
      addEventListener('online', online, { once: true });
      this._cleanUp = () => {
        clearTimeout(timer);
        removeEventListener('online', online);
      };
    });
    this._cleanUp();
    this._wake = null;
  }
}

// Calls back if a read takes longer than any heartbeat.
class Watch {
  constructor(onSilent) {
    this._onSilent = onSilent;
    this._timer = null;
  }

  begin() {
    this._timer = setTimeout(this._onSilent, SILENT_MS);
  }

  end() {
    clearTimeout(this._timer);
  }
}

// Reads Server-Sent Events as HTML defines them, from pieces of text that may end anywhere.
export class Parser {
  constructor() {
    this._rest = '';
    this._afterCr = false;
    this._clear();
  }

  // Returns the frames that the text completes: { type, data, id, retryMs }, each if it was sent.
  feed(text) {
    const frames = [];
    if (this._afterCr && text.startsWith('\n')) text = text.slice(1);
    this._afterCr = text.endsWith('\r');
    const lines = (this._rest + text).split(/\r\n|\n|\r/);
    this._rest = lines.pop();
    for (const line of lines) {
      if (line) this._field(line);
      else if (this._hasFields) {
        const { type, data, id, retryMs } = this;
        frames.push({ type, id, retryMs, ...(data.length && { data: data.join('\n') }) });
        this._clear();
      }
    }
    return frames;
  }

  _clear() {
    this._hasFields = false;
    this.type = 'message';
    this.data = [];
    this.id = undefined;
    this.retryMs = undefined;
  }

  _field(line) {
    const colon = line.indexOf(':');
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1);
    this._hasFields = true;
    if (name === 'event') this.type = value || 'message';
    else if (name === 'data') this.data.push(value);
    else if (name === 'id' && !value.includes('\0')) this.id = value;
    else if (name === 'retry' && /^\d+$/.test(value)) this.retryMs = Number(value);
  }
}

// Returns the gateway's reason for refusing a request.
export async function refusal(response) {
  const text = await response.text().catch(() => '');
  try {
    const problem = JSON.parse(text);
    const words = problem.detail ?? problem.message ?? problem.title;
    if (typeof words === 'string' && words) return words;
  } catch {
    /* no JSON */
  }
  return `The gateway answered ${response.status} ${response.statusText}`.trim();
}

const RECORDED_GAPS = {
  upstream: 'the upstream had lost them',
  restored: 'the log was restored from a backup',
};

// Describes a gap event in a sentence or two.
export function gapInWords(data) {
  try {
    const { partitions = [] } = JSON.parse(data);
    const places = partitions.map(
      ({ topic, partition, requested, resumed, cause }) =>
        `${topic}, partition ${partition}: ${
          RECORDED_GAPS[cause] ??
          `offset ${requested} was requested, and the stream continues at ${resumed}`
        }`,
    );
    return `Some events are no longer kept. ${places.join('; ')}`;
  } catch {
    return 'Some events are no longer kept.';
  }
}
