// Reads the chosen streams into the list: stored events first, then live ones.
//
// Stored events, and those after a cut, arrive over a connection of this page alone, which is read no
// faster than it replays. Once all of them have arrived, the page continues from the id of the last
// one over the connection that all tabs share. The id is the position, so no event is lost.

import { Connection, gapInWords } from './connection.js';
import { counted } from './dom.js';
import { connect, requestTicket } from './eventstreams.js';
import { Pace } from './pace.js';
import { parameters, path } from './request.js';

const STORED = 100; // the number of stored events with which a live list begins
const STORED_MAX = 1000; // how many stored events are examined to find these, if there is a filter
const PARTITIONS_MAX = 100; // the id of more partitions may not fit into a header
const UNSHARED = ['until']; // streams with an end are read to their end over the page's connection
const TAIL_BASE = -2000; // offset -2000 - n: the last n events

export class Reading {
  // `token`: an access token, or empty.
  // `onState({ kind, text, until })`, `onNotice(text, kind)`, `onEvent(event)`; `onLive(wasReplay)`:
  // all stored events are here.
  constructor({ request, explained, nameOf, token, onState, onNotice, onEvent, onLive }) {
    this._nameOf = nameOf;
    this._isClosed = false;
    // Calls that are in progress when this reading is closed must not affect the next one.
    const whileOpen = (call) => (...args) => {
      if (!this._isClosed) call(...args);
    };
    this._onState = whileOpen(onState);
    this._onNotice = whileOpen(onNotice);
    this._onEvent = whileOpen(onEvent);
    this._onLive = whileOpen(onLive);
    this.pace = new Pace(request.since ? request.speed : 'full');
    this.isReplay = Boolean(request.since);
    this.isLive = false;
    this._cutAt = null;
    this._since = 0; // events since the last connection began
    this._gaps = 0;
    this._twice = 0;
    this._cutMs = 0;
    this._offsets = new Map(); // "topic partition" -> offset of the newest event
    const query = parameters(request);
    query.set('heartbeat', 'checkpoint');
    query.set('caught_up', 'event');
    this._request = request;
    this._token = token;
    this._url = `${path(request)}?${query}`;
    this._isShared = !UNSHARED.some((name) => request[name]);
    this._own = this._connection(request.since ? null : newestId(explained));
    this._shared = null; // once the page is live
  }

  // Reads until the stream ends or `close` is called.
  async run() {
    while ((await this._readOwn()) && this._isShared && !this._isClosed) {
      const id = await this._readShared();
      if (this._isClosed || id === null) return;
      this._own = this._connection(id);
      this._own.cut(this._cutMs);
    }
  }

  // Drops the connection for a while, for people who want to see it come back.
  cut(forMs) {
    this._cutMs = forMs;
    if (this._shared) this._leave();
    else this._own.cut(forMs);
  }

  retryNow() {
    this._cutMs = 0;
    if (this._shared) this._leave();
    else this._own.retryNow();
  }

  close() {
    this._isClosed = true;
    this._own.close();
    if (this._shared) this._leave();
    this.pace.end();
  }

  _connection(id) {
    const headers = () => (this._token ? { Authorization: `Bearer ${this._token}` } : {});
    return new Connection({ url: this._url, id, headers, onState: (state) => this._state(state) });
  }

  // Reads over the own connection. Returns whether it ended because all stored events are here and
  // the shared connection can go on.
  async _readOwn() {
    for await (const frame of this._own.frames()) {
      if (this._isClosed) return false;
      if (frame.type === 'message') await this._message(frame);
      else if (frame.type === 'gap') this._gap(frame.data);
      else if (frame.type === 'error') this._onNotice(wordsOf(frame.data), 'warning');
      else if (frame.type === 'caught-up') {
        this._caughtUp();
        if (this._isShared) return true;
      }
    }
    return false;
  }

  // Reads over the connection that tabs share. Returns the id to go on from once it is left, or null
  // if the stream has ended for good.
  _readShared() {
    const { streams, filter, fields } = this._request;
    return new Promise((resolve) => {
      let why = '';
      const connection = connect(streams, {
        gateway: location.origin,
        query: { filter, fields: fields.replace(/\s+/g, '') },
        lastEventId: this._own.id,
        remember: 0,
        share: !this._token,
        ticket: this._token ? () => requestTicket(location.origin, this._token) : undefined,
        onEvents: (events) => events.forEach(({ id, text }) => this._message({ id, data: text })),
        onGap: (gap) => this._gap(JSON.stringify(gap)),
        onError: (error) => {
          why = error.name === 'ConnectionLost' ? '' : error.message; // as in connection.js
        },
        onCaughtUp: () => {
          if (!this.isLive) this._caughtUp();
        },
        onState: ({ state, retryInMs }) => {
          if (state === 'waiting')
            this._state({
              kind: 'waiting',
              text: `Connection lost${why && ` (${why})`}`,
              until: Date.now() + retryInMs,
            });
          else if (state === 'open') this._state({ kind: 'open', text: 'Connected' });
          else if (state === 'ended' || state === 'refused') {
            this._state({ kind: state, text: why });
            resolve(null);
          }
        },
      });
      this._shared = { connection, resolve };
    });
  }

  _leave() {
    const { connection, resolve } = this._shared;
    this._shared = null;
    connection.close();
    resolve(connection.lastEventId);
  }

  _gap(data) {
    this._gaps += 1;
    this._onNotice(gapInWords(data), 'warning');
  }

  async _message({ data, id }) {
    let document;
    try {
      document = JSON.parse(data);
    } catch {
      this._onNotice('An event was skipped, because it is not JSON.', 'warning');
      return;
    }
    if (document === null || typeof document !== 'object') document = { value: document };
    const { topic, partition, offset } = Object(document.meta);
    const place = `${topic} ${partition}`;
    if (offset !== undefined && offset <= (this._offsets.get(place) ?? -1)) this._twice += 1;
    if (offset !== undefined) this._offsets.set(place, offset);
    const event = {
      data: document,
      raw: data,
      id,
      time: timeOf(document, id),
      stream: this._nameOf(document),
    };
    if (this.isReplay) await this.pace.until(event.time);
    this._since += 1;
    this._onEvent(event);
  }

  _state(state) {
    if (state.kind === 'waiting') {
      if (this._cutAt === null) {
        this._cutAt = performance.now();
        this._since = this._gaps = this._twice = 0;
      }
      this.isLive = false;
    }
    this._onState(state);
  }

  // All stored events have arrived. Later ones are live.
  _caughtUp() {
    this.isLive = true;
    if (this._cutAt !== null) {
      const seconds = ((performance.now() - this._cutAt) / 1000).toFixed(1);
      const events = counted(this._since, 'event');
      const whole = this._gaps ? 'some are no longer kept' : 'none is missing';
      const twice = this._twice ? `${this._twice} arrived twice` : 'none arrived twice';
      this._onNotice(
        `Resumed after ${seconds} s: ${events} arrived in the meantime; ${whole}, ${twice}.`,
        'good',
      );
      this._cutAt = null;
    } else if (this.isReplay)
      this._onNotice('The replay has reached the present. From here on, events are live.', 'good');
    this._onLive(this.isReplay);
    this.isReplay = false;
    this._onState({ kind: 'open', text: 'Live' });
  }
}

// An id from which the newest stored events come before the live ones; null to begin live.
function newestId({ start, recent }) {
  if (start.length > PARTITIONS_MAX) return null;
  const wanted = STORED / Math.max(recent.share ?? 1, STORED / STORED_MAX) / start.length;
  const offset = TAIL_BASE - Math.ceil(wanted);
  return JSON.stringify(start.map(({ topic, partition }) => ({ topic, partition, offset })));
}

// The time of the event in ms: from the event, otherwise from its id; null if neither has one.
function timeOf(document, id) {
  const time = Date.parse(Object(document.meta).dt);
  if (!Number.isNaN(time)) return time;
  try {
    const whole = JSON.parse(id);
    const newest = Math.max(...(whole.id ?? whole).map(({ timestamp }) => timestamp || 0));
    return newest || null;
  } catch {
    return null;
  }
}

function wordsOf(data) {
  try {
    return String(JSON.parse(data).message);
  } catch {
    return 'The gateway reported an error.';
  }
}
