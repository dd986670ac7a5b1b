// Keeps the newest events, and a copy of them that the list shows.
//
// `look` makes the copy before each drawing. While the list is paused the copy does not change, so an
// index always refers to the event that was drawn there.

const KEPT = 1000; // events, both of the newest ones and of those on show
const RATE_S = 60;

export class Live {
  constructor() {
    this._listeners = new Set();
    this.clear();
  }

  // Calls `listener` after every change; it must be quick.
  onChange(listener) {
    this._listeners.add(listener);
  }

  clear() {
    this._events = [];
    this._shown = [];
    this._reasons = new Set();
    this.total = 0; // since the page began to read
    this._totalShown = 0; // the total at the last look
    this.began = performance.now(); // tells the events of one request from those of another
    this.restartRate();
    this._changed();
  }

  // Forgets the rate so far, which was that of a replay or of another request.
  restartRate() {
    this._seconds = new Map(); // second -> events that arrived in it
    this._rateBegan = null;
  }

  // Counts the rate from now on, unless it is counted already.
  beginRate() {
    this._rateBegan ??= performance.now();
  }

  // `isRate`: whether it counts as one that arrives now, and not as one stored before.
  add(event, { isRate = true } = {}) {
    this._events.push(event);
    if (this._events.length >= 2 * KEPT) this._events.splice(0, this._events.length - KEPT);
    this.total += 1;
    event.number = this.total;
    if (isRate) this._count();
    this._changed();
  }

  // Shows the newest events, unless the list is paused.
  look() {
    if (this.isPaused) return;
    this._shown = this.newest();
    this._totalShown = this.total;
  }

  // How many events are on show, and the n-th newest of them.
  get size() {
    return this._shown.length;
  }

  at(index) {
    return this._shown[this._shown.length - 1 - index];
  }

  // The newest events held, the newest last, whether they are on show or not.
  newest() {
    return this._events.slice(-KEPT);
  }

  // How many came since the list was paused.
  get fresh() {
    return this.isPaused ? this.total - this._totalShown : 0;
  }

  get isPaused() {
    return this._reasons.size > 0;
  }

  // Several things may pause the list; it continues when nothing pauses it any more.
  pause(reason) {
    if (this._reasons.has(reason)) return;
    this._reasons.add(reason);
    this._changed();
  }

  resume(reason) {
    if (this._reasons.delete(reason)) this._changed();
  }

  resumeAll() {
    this._reasons.clear();
    this._changed();
  }

  // For how many complete seconds the rate has been counted.
  get rateS() {
    return this._rateBegan === null ? 0 : Math.floor((performance.now() - this._rateBegan) / 1000);
  }

  // Events that arrived in each of the last complete seconds, the newest last.
  perSecond() {
    const now = Math.floor(performance.now() / 1000);
    return Array.from({ length: RATE_S }, (_, i) => this._seconds.get(now - RATE_S + i) ?? 0);
  }

  _count() {
    this.beginRate();
    const second = Math.floor(performance.now() / 1000);
    this._seconds.set(second, (this._seconds.get(second) ?? 0) + 1);
    if (this._seconds.size > RATE_S + 2) this._seconds.delete(this._seconds.keys().next().value);
  }

  _changed() {
    for (const listener of this._listeners) listener();
  }
}

// The most frequent values of a field among events, with their counts.
export function topValues(events, keys, most = 8) {
  const counts = new Map();
  let having = 0;
  for (const { data } of events) {
    const value = valueAt(data, keys);
    if (value === undefined || (typeof value === 'object' && value !== null)) continue;
    having += 1;
    counts.set(value, (counts.get(value) ?? 0) + 1);
  }
  const sorted = [...counts].sort(([, a], [, b]) => b - a);
  return { having, distinct: counts.size, top: sorted.slice(0, most) };
}

export function valueAt(document, keys) {
  return keys.reduce(
    (inner, key) =>
      inner !== null && typeof inner === 'object' && Object.hasOwn(inner, key)
        ? inner[key]
        : undefined,
    document,
  );
}
