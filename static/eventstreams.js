/**
 * Follows event streams of a gateway from a web page. No dependencies; docs/browser.md explains it.
 *
 *   import { connect } from 'https://gateway.example/v2/ui/eventstreams.js';
 *
 *   const connection = connect('recentchange', {
 *     query: { filter: 'event.wiki == "enwiki"' },
 *     onEvents: (events) => events.forEach(({ data }) => console.log(data.title)),
 *   });
 *   connection.close();
 *
 * All tabs of an origin that follow the same streams with the same query share one HTTP connection.
 * Each tab (a `Client`) talks over a BroadcastChannel to one `Leader`, which holds the connection.
 * The leader runs in a SharedWorker if the page and this module have the same origin, else in the
 * tab that holds a Web Lock; the next tab takes over when that one closes. Without either, the page
 * has a connection of its own.
 *
 * Every message names the position (the id) of each event, so a tab always knows where it is. A tab
 * that joins at another position than the shared connection gets what it lacks from a second
 * connection, until both have the same id: equal ids have the same continuation.
 */

const VERSION = 1; // of the messages between tabs; tabs with another version do not share
const RECENT_EVENTS_MAX = 1000; // that a leader keeps for tabs that join or reload
const RECENT_CHARS_MAX = 4e6;
const BACK_OFF_MAX_MS = 60_000;
const TICKET_TIMEOUT_MS = 10_000;
const BOUNDS = ['until', 'limit', 'max_seconds'];

const newId = () => crypto.getRandomValues(new Uint32Array(4)).join('-');

/** An error that ends a connection or explains why it is retried. */
class StreamError extends Error {
  constructor(name, message, { status, final = false, retryAfterMs } = {}) {
    super(message);
    Object.assign(this, { name, status, final, retryAfterMs });
  }
}

/** One event. `data` is parsed when it is first used. */
class StreamEvent {
  #data;

  constructor(id, text) {
    this.id = id;
    this.text = text;
  }

  get data() {
    this.#data ??= JSON.parse(this.text);
    return this.#data;
  }
}

/**
 * Follows streams.
 *
 * @param {string | string[]} streams names or aliases of streams
 * @param {object} [options]
 * @param {string | URL} [options.gateway] its address; default: where this module came from
 * @param {object} [options.query] parameters of the stream: filter, fields, since, sample, …
 * @param {string} [options.lastEventId] start after this event, instead of a remembered position
 * @param {number} [options.remember] for how many seconds a position survives a reload of the tab
 *   or its restart; 0: not at all. Default: 3600
 * @param {boolean | string} [options.share] whether tabs share a connection. A text, like a user's
 *   name, shares only with tabs that give the same text. Default: true. Streams that end by
 *   themselves (until, limit, max_seconds) are never shared
 * @param {() => string | Promise<string>} [options.ticket] returns a new ticket, for streams that
 *   need a token; called before each connection. See `requestTicket`
 * @param {RequestCredentials} [options.credentials] as for fetch; 'include' sends cookies to
 *   another origin
 * @param {number} [options.stallSeconds] a connection without any byte for so long is replaced;
 *   the gateway sends a heartbeat every 15 s by default. Default: 60
 * @param {(events: {id: string, data: any, text: string}[]) => void} [options.onEvents]
 * @param {(gap: object) => void} [options.onGap] events that are no longer kept were skipped
 * @param {(error: {name: string, message: string, status?: number, final: boolean}) => void}
 *   [options.onError] if `final`, the connection does not come back
 * @param {() => void} [options.onCaughtUp] all stored events were delivered; the next ones are live
 * @param {(state: {state: string, retryInMs?: number}) => void} [options.onState] connecting, open,
 *   waiting (for `retryInMs`), ended (the stream has an end), refused, or closed
 * @returns {{close: () => void, lastEventId: string | null, state: string}}
 */
export function connect(streams, options = {}) {
  return new Client(streams, options);
}

/**
 * Returns a ticket, which opens one stream, in exchange for an access token.
 *
 * @param {string | URL} gateway the gateway's address
 * @param {string} token
 * @returns {Promise<string>} rejected with a StreamError
 */
export async function requestTicket(gateway, token) {
  const headers = { Authorization: `Bearer ${token}` };
  const response = await fetch(new URL('v2/ticket', folder(gateway)), { method: 'POST', headers });
  if (!response.ok) throw await refusal(response);
  return (await response.json()).ticket;
}

const folder = (address) => String(address).replace(/\/*$/, '/');

class Client {
  #options;
  #url;
  #name;
  #isShared;
  #id;
  #leader = null; // the id of the leader that this client has joined
  #isLive = false; // whether what the leader sends to all is for this client, too
  #channel = null;
  #leading = null; // an AbortController that ends the leader in this page
  #position;
  #state = 'closed';
  #listening = new AbortController();

  constructor(streams, options) {
    this.#options = { remember: 3600, share: true, stallSeconds: 60, ...options };
    const { gateway = new URL('../../', import.meta.url), query = {}, share } = this.#options;
    const names = [].concat(streams).map(encodeURIComponent).join(',');
    this.#url = new URL(`v2/stream/${names}`, new URL(folder(gateway), location.href));
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined && value !== null && value !== '') {
        this.#url.searchParams.set(name, value);
      }
    }
    this.#url.searchParams.set('caught_up', 'event');
    this.#url.searchParams.set('heartbeat', 'checkpoint');
    this.#url.searchParams.sort();
    this.#isShared = Boolean(share) && !BOUNDS.some((name) => this.#url.searchParams.has(name));
    const group = `${share === true ? '' : share} ${this.#options.credentials ?? ''}`;
    this.#name = `eventstreams/${VERSION} ${group} ${this.#url}`;
    this.#position = this.#options.lastEventId ?? this.#remembered();
    this.#listen();
    this.#start();
  }

  /** The id of the last event delivered here, or null. */
  get lastEventId() {
    return this.#position;
  }

  get state() {
    return this.#state;
  }

  /** Stops following. Nothing is delivered after this returns. */
  close() {
    this.#listening.abort();
    this.#stop();
    this.#setState('closed');
  }

  /** A page that is hidden for good or frozen lets others lead, and joins again when it is back. */
  #listen() {
    const { signal } = this.#listening;
    const start = () => this.#channel ?? this.#start();
    const stop = () => this.#stop();
    addEventListener('pagehide', stop, { signal });
    addEventListener('pageshow', start, { signal });
    document.addEventListener('freeze', stop, { signal });
    document.addEventListener('resume', start, { signal });
  }

  #start() {
    this.#id = newId(); // so that no message for an earlier channel is taken for one for this one
    this.#setState('connecting');
    const canElect = 'locks' in navigator;
    const sameOrigin = new URL(import.meta.url).origin === location.origin;
    if (this.#isShared && 'SharedWorker' in globalThis && sameOrigin) {
      this.#open(this.#name);
      try {
        const worker = new SharedWorker(import.meta.url, { type: 'module', name: this.#name });
        worker.onerror = () => this.#workerFailed(canElect);
      } catch {
        this.#workerFailed(canElect);
      }
    } else {
      this.#alone(this.#isShared && canElect);
    }
  }

  #workerFailed(canElect) {
    if (this.#channel === null) return;
    this.#stop();
    this.#id = newId();
    this.#alone(canElect);
  }

  /** Leads in this page: if it is elected, or on a channel that no other page knows. */
  #alone(canElect) {
    const name = canElect ? this.#name : `${this.#name} ${newId()}`;
    this.#open(name);
    this.#leading = new AbortController();
    lead(name, this.#leading.signal, canElect);
  }

  #open(name) {
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => this.#receive(data);
    this.#channel.postMessage({ from: this.#id, kind: 'seek' });
  }

  #stop() {
    this.#channel?.postMessage({ from: this.#id, kind: 'leave' });
    this.#channel?.close();
    this.#leading?.abort();
    this.#channel = this.#leader = this.#leading = null;
    this.#isLive = false;
  }

  #join() {
    this.#isLive = false;
    const { credentials, stallSeconds, ticket } = this.#options;
    this.#channel.postMessage({
      from: this.#id,
      kind: 'join',
      url: String(this.#url),
      position: this.#position,
      credentials,
      stallMs: stallSeconds * 1000,
      hasTickets: Boolean(ticket),
    });
  }

  #receive(message) {
    if (message.kind === 'hello' && message.leader !== this.#leader) {
      this.#leader = message.leader;
      this.#join();
    }
    const isForMe = message.to === undefined ? this.#isLive : message.to === this.#id;
    if (message.leader !== this.#leader || !isForMe) return;
    switch (message.kind) {
      case 'live': this.#isLive = true; break;
      case 'entries': this.#deliver(message.entries); break;
      case 'state': this.#setState(message.state, message.retryInMs); break;
      case 'error': this.#failed(message.error); break;
      case 'ticket': this.#sendTicket(message.number); break;
      default:
    }
  }

  #deliver(entries) {
    const { onEvents, onGap, onCaughtUp } = this.#options;
    let events = [];
    const flush = () => {
      const complete = events;
      events = [];
      if (complete.length) onEvents?.(complete);
    };
    for (const [id, type, text] of entries) {
      if (type === 'message') {
        events.push(new StreamEvent(id, text));
      } else {
        flush();
        if (type === 'gap') onGap?.(JSON.parse(text));
        if (type === 'caught-up') onCaughtUp?.();
        if (type === 'error') this.#failed({ ...JSON.parse(text), final: false });
      }
      if (this.#channel === null) return; // a callback has closed this client
      if (id !== null) this.#position = id;
    }
    flush();
    this.#remember();
  }

  #failed(error) {
    if (error.final) this.#forget();
    this.#options.onError?.(error);
  }

  #setState(state, retryInMs) {
    if (state === 'ended' || state === 'refused') {
      this.#listening.abort();
      this.#stop();
    }
    if (state === this.#state && state !== 'waiting') return;
    this.#state = state;
    this.#options.onState?.(retryInMs === undefined ? { state } : { state, retryInMs });
  }

  async #sendTicket(number) {
    const answer = { from: this.#id, kind: 'ticket', number };
    try {
      answer.ticket = await this.#options.ticket();
    } catch (error) {
      const { name = 'Error', message = String(error), status, final = false } = error ?? {};
      answer.error = { name, message, status, final };
    }
    this.#channel?.postMessage(answer);
  }

  // The position stays in this tab's sessionStorage, which pages may be forbidden to use.

  #remembered() {
    try {
      const { id, at } = JSON.parse(sessionStorage.getItem(this.#name) ?? '{}');
      return Date.now() - at < this.#options.remember * 1000 ? id : null;
    } catch {
      return null;
    }
  }

  #remember() {
    if (!this.#options.remember || this.#position === null) return;
    try {
      const kept = JSON.stringify({ id: this.#position, at: Date.now() });
      sessionStorage.setItem(this.#name, kept);
    } catch { /* without storage, a reload starts anew */ }
  }

  #forget() {
    try {
      sessionStorage.removeItem(this.#name);
    } catch { /* nothing was kept */ }
  }
}

/** Leads the clients on this channel until `signal` aborts; if `elect`, once no other does. */
function lead(name, signal, elect) {
  const run = () => new Promise((resolve) => {
    const leader = new Leader(name);
    signal?.addEventListener('abort', () => resolve(leader.close()));
  });
  if (!elect) run();
  else navigator.locks.request(name, signal ? { signal } : {}, run).catch(() => {});
}

/** Holds the connection of all clients of one channel. */
class Leader {
  #id = newId();
  #channel;
  #clients = new Map();
  #main = null; // the shared connection
  #caughtUp = false;
  #recent = []; // the newest entries of the shared connection
  #recentChars = 0;
  #dropped = 0; // how many entries came before those in #recent
  #after = new Map(); // id -> how many entries have come up to and including the one with this id
  #tickets = new Map(); // number -> the function that takes the answer
  #ticketNumber = 0;

  constructor(name) {
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => this.#receive(data);
    this.#post({ kind: 'hello' });
  }

  close() {
    this.#reset();
    this.#channel.close();
  }

  /** Sends to all live clients, or to one. */
  #post(message, to = undefined) {
    this.#channel.postMessage({ leader: this.#id, to, ...message });
  }

  #receive(message) {
    switch (message.from && message.kind) {
      case 'seek': this.#post({ kind: 'hello' }, message.from); break;
      case 'join': this.#join(message); break;
      case 'leave': this.#leave(message.from); break;
      case 'ticket': this.#tickets.get(message.number)?.(message); break;
      default:
    }
  }

  #join({ from, ...request }) {
    const client = { ...request, id: from, isLive: false, isCaughtUp: false, own: null };
    const { url, position } = client;
    this.#clients.set(from, client);
    if (this.#main === null) {
      if (position !== null) this.#after.set(position, this.#dropped);
      this.#main = this.#connect(client, {
        entries: (entries) => this.#add(entries),
        state: (state) => this.#post({ kind: 'state', ...state }),
        error: (error) => this.#post({ kind: 'error', error }),
        final: (state, error) => this.#end(state, error),
      });
      this.#admit(client, []);
      this.#main.run();
      return;
    }
    if (position === null && !new URL(url).searchParams.has('since')) {
      this.#admit(client, []);
    } else if (!this.#admitIfKnown(client)) {
      this.#catchUp();
    }
  }

  #connect(client, on) {
    const { url, position, credentials, stallMs } = client;
    const ticket = () => this.#ticket();
    return new Connection({ url, position, credentials, stallMs, ticket, on });
  }

  #leave(id) {
    this.#clients.get(id)?.own?.close();
    this.#clients.delete(id);
    if (this.#clients.size === 0) this.#reset();
    else this.#catchUp();
  }

  #reset() {
    this.#main?.close();
    for (const { own } of this.#clients.values()) own?.close();
    this.#main = null;
    this.#clients.clear();
    this.#caughtUp = false;
    this.#recent = [];
    this.#recentChars = this.#dropped = 0;
    this.#after.clear();
  }

  /** Sends new entries of the shared connection to all, and keeps them for those who join. */
  #add(entries) {
    for (const entry of entries) {
      const [id, type, text] = entry;
      this.#recent.push(entry);
      this.#recentChars += text.length;
      this.#after.set(id, this.#dropped + this.#recent.length);
      if (type === 'caught-up') this.#caughtUp = true;
    }
    this.#post({ kind: 'entries', entries });
    for (const client of this.#clients.values()) {
      if (!client.isLive) this.#admitIfKnown(client);
    }
    while (this.#recent.length > RECENT_EVENTS_MAX || this.#recentChars > RECENT_CHARS_MAX) {
      this.#drop(Math.ceil(this.#recent.length / 10));
    }
  }

  #drop(count) {
    for (const [, , text] of this.#recent.splice(0, count)) this.#recentChars -= text.length;
    this.#dropped += count;
    for (const [id, after] of this.#after) {
      if (after < this.#dropped) this.#after.delete(id);
    }
  }

  #admitIfKnown(client) {
    const after = client.position === null ? undefined : this.#after.get(client.position);
    if (after === undefined) return false;
    this.#admit(client, this.#recent.slice(after - this.#dropped));
    return true;
  }

  /** From now on, the client gets what all get; before, the entries that it lacks. */
  #admit(client, entries) {
    client.isLive = true;
    const isTold = client.isCaughtUp || entries.some(([, type]) => type === 'caught-up');
    const lacking = this.#caughtUp && !isTold ? [...entries, [null, 'caught-up', '']] : entries;
    if (lacking.length) this.#post({ kind: 'entries', entries: lacking }, client.id);
    this.#post({ kind: 'live' }, client.id);
    this.#post({ kind: 'state', ...this.#main.state }, client.id);
    client.own?.close();
    client.own = null;
    this.#catchUp();
  }

  /** Opens a connection for the next client that lacks older events: one client at a time. */
  #catchUp() {
    const clients = [...this.#clients.values()];
    const client = clients.find(({ isLive, own }) => !isLive && own === null);
    if (client === undefined || clients.some(({ own, isCaughtUp }) => own && !isCaughtUp)) return;
    const post = (message) => this.#post(message, client.id);
    client.own = this.#connect(client, {
      entries: (entries) => this.#addFor(client, entries),
      state: (state) => post({ kind: 'state', ...state }),
      error: (error) => post({ kind: 'error', error }),
      final: (state, error) => {
        if (error) post({ kind: 'error', error });
        post({ kind: 'state', state });
        this.#leave(client.id);
      },
    });
    client.own.run();
  }

  #addFor(client, entries) {
    const met = entries.findIndex(([id]) => this.#after.has(id));
    const its = met < 0 ? entries : entries.slice(0, met + 1);
    client.isCaughtUp ||= its.some(([, type]) => type === 'caught-up');
    [client.position] = its.at(-1);
    this.#post({ kind: 'entries', entries: its }, client.id);
    if (met >= 0) this.#admitIfKnown(client);
    else if (client.isCaughtUp) this.#catchUp();
  }

  #end(state, error) {
    for (const id of this.#clients.keys()) {
      if (error) this.#post({ kind: 'error', error }, id);
      this.#post({ kind: 'state', state }, id);
    }
    this.#reset();
  }

  /** Returns a new ticket of a client that has some, or null. Raises StreamError. */
  async #ticket() {
    const able = [...this.#clients.values()].filter(({ hasTickets }) => hasTickets);
    if (able.length === 0) return null;
    let failure;
    for (const { id } of able) {
      const number = this.#ticketNumber += 1;
      const answered = new Promise((resolve) => {
        this.#tickets.set(number, resolve);
        setTimeout(resolve, TICKET_TIMEOUT_MS, {});
        this.#post({ kind: 'ticket', number }, id);
      });
      const { ticket, error } = await answered;
      this.#tickets.delete(number);
      if (ticket) return ticket;
      failure ??= error;
    }
    const { name = 'NoTicket', message = 'No tab returned a ticket', status, final } = failure ?? {};
    throw new StreamError(name, message, { status, final });
  }
}

/** One stream over HTTP, which comes back by itself. */
class Connection {
  #url;
  #position;
  #credentials;
  #stallMs;
  #ticket;
  #on;
  #closing = new AbortController();
  #wake = () => {}; // ends a wait
  #retryMs = 1000 + 2000 * Math.random(); // until the server names another time

  state = { state: 'connecting' };

  /** `on` has the functions entries, state, error, and final for an end without a return. */
  constructor({ url, position, credentials, stallMs, ticket, on }) {
    this.#url = url;
    this.#position = position;
    this.#credentials = credentials;
    this.#stallMs = stallMs;
    this.#ticket = ticket;
    this.#on = on;
  }

  close() {
    this.#closing.abort();
    this.#wake();
  }

  async run() {
    const { signal } = this.#closing;
    let failures = 0;
    let refusals = 0; // of tickets, one after another
    for (;;) {
      this.#report({ state: 'connecting' });
      const { received, error } = await this.#attempt();
      if (signal.aborted) return;
      refusals = error?.status === 401 ? refusals + 1 : 0;
      if (error?.final || refusals > 1) {
        const { name, message, status } = error;
        if (name === 'Ended') this.#on.final('ended');
        else this.#on.final('refused', { name, message, status, final: true });
        return;
      }
      if (error) {
        const { name, message, status } = error;
        this.#on.error({ name, message, status, final: false });
      }
      failures = received ? 0 : failures + 1;
      const retryInMs = Math.round(Math.max(error?.retryAfterMs ?? 0, this.#backOffMs(failures)));
      this.#report({ state: 'waiting', retryInMs });
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, retryInMs);
        this.#wake = () => resolve(clearTimeout(timer));
      });
      if (signal.aborted) return;
    }
  }

  /** The time that the server named, doubled for each failure in a row after the first. */
  #backOffMs(failures) {
    const doubled = this.#retryMs * 2 ** Math.max(0, failures - 1);
    return Math.max(this.#retryMs, Math.min(doubled, BACK_OFF_MAX_MS));
  }

  #report(state) {
    this.state = state;
    this.#on.state(state);
  }

  /** Connects once, until the connection ends: returns whether any entry came, and the error. */
  async #attempt() {
    const attempt = new AbortController();
    const signal = AbortSignal.any([attempt.signal, this.#closing.signal]);
    let timer;
    let received = false;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => attempt.abort(), this.#stallMs);
    };
    try {
      const ticket = await this.#ticket();
      const url = this.#target(ticket);
      alive();
      const headers = { Accept: 'text/event-stream, application/json' };
      const credentials = this.#credentials ?? 'same-origin';
      const response = await fetch(url, { headers, credentials, signal, cache: 'no-store' });
      if (response.status === 204) throw new StreamError('Ended', '', { final: true });
      if (!response.ok) throw await refusal(response, ticket !== null);
      if (!response.headers.get('content-type')?.startsWith('text/event-stream')) {
        throw new StreamError('NoEventStream', `${this.#url} is not an event stream`, { final: true });
      }
      this.#report({ state: 'open' });
      const parser = new Parser(this.#position);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done || this.#closing.signal.aborted) return { received };
        alive();
        const entries = parser.entries(value);
        this.#retryMs = parser.retryMs ?? this.#retryMs;
        if (entries.length) {
          received = true;
          this.#position = parser.position;
          this.#on.entries(entries);
        }
      }
    } catch (error) {
      if (error instanceof StreamError) return { received, error };
      const silent = attempt.signal.aborted;
      const text = silent ? `No byte came for ${this.#stallMs / 1000} s` : String(error.message);
      return { received, error: new StreamError('ConnectionLost', text) };
    } finally {
      clearTimeout(timer);
      attempt.abort();
    }
  }

  #target(ticket) {
    const url = new URL(this.#url);
    if (this.#position !== null) url.searchParams.set('last-event-id', this.#position);
    if (ticket !== null) url.searchParams.set('ticket', ticket);
    return url;
  }
}

/** Parses an event stream (HTML, 9.2.6) into entries: [id, type, data], type '' for an id alone. */
class Parser {
  retryMs = null;
  position;
  #rest = '';
  #endedWithCr = false;
  #id;
  #type = '';
  #data = [];

  constructor(position) {
    this.position = this.#id = position;
  }

  /** Returns the entries that this text completes. */
  entries(text) {
    const entries = [];
    const fresh = this.#endedWithCr && text.startsWith('\n') ? text.slice(1) : text;
    if (text) this.#endedWithCr = text.endsWith('\r');
    const lines = (this.#rest + fresh).split(/\r\n|\n|\r/);
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line) this.#field(line);
      else this.#dispatch(entries);
    }
    return entries;
  }

  #field(line) {
    const colon = line.indexOf(':');
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (name === 'data') this.#data.push(value);
    else if (name === 'event') this.#type = value;
    else if (name === 'id' && !value.includes('\0')) this.#id = value || null;
    else if (name === 'retry' && /^\d+$/.test(value)) this.retryMs = Number(value);
  }

  #dispatch(entries) {
    if (this.#data.length) {
      entries.push([this.#id, this.#type || 'message', this.#data.join('\n')]);
    } else if (this.#id !== this.position) {
      entries.push([this.#id, '', '']);
    }
    this.position = this.#id;
    this.#type = '';
    this.#data = [];
  }
}

/** Returns the error that this response means. A 401 may pass if the next request has a new ticket. */
async function refusal(response, hadTicket = false) {
  const { status } = response;
  const document = await response.json().catch(() => ({}));
  const message = document.detail ?? document.message ?? `The gateway answered ${status}`;
  const passes = status === 408 || status === 429 || (status >= 500 && status !== 501);
  const after = Number(response.headers.get('retry-after')) * 1000;
  return new StreamError(document.title ?? document.name ?? 'Refused', message, {
    status,
    final: !passes && !(status === 401 && hadTicket),
    retryAfterMs: after > 0 ? after : undefined,
  });
}

if ('SharedWorkerGlobalScope' in globalThis) lead(globalThis.name, null, 'locks' in navigator);
