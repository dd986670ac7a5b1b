// The page of live events: connects its parts. The page's address contains the request.

import { RateChart } from './chart.js';
import { Builder } from './builder.js';
import { columnsOf } from './columns.js';
import { backOffMs, isPassing } from './connection.js';
import { byId, h } from './dom.js';
import { fieldsOf } from './fields.js';
import { Live, valueAt } from './live.js';
import { valueMenu } from './menu.js';
import { Reading } from './reading.js';
import { condition, fromHash, narrowed, reference, toHash } from './request.js';
import { Rows } from './rows.js';
import { newestSchema, SchemaView } from './schema.js';
import { Snippets } from './snippets.js';
import { Streams } from './streams.js';
import { ago, duration, moment, Speeds } from './time.js';
import { TopValues } from './top.js';

const LOOKS = [1, 20, 200]; // after so many events, the columns are chosen again
const CUT_MS = 4000;
const EXAMPLE_LENGTH = 50; // characters for which most windows have room
const QUIET_MS = 60_000; // after so long without events, the page shows the time of the last one

let request = fromHash(location.hash);
let token = '';
let reading = null;
let described = []; // the chosen streams with their schemas
let starts = 0;
let retryNow = null; // ends the wait before the next attempt, while the gateway is unreachable
let state = { kind: 'connecting', text: 'Connecting …' };

const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});
const live = new Live();
const rows = new Rows({
  live,
  onValue: (button, keys, value) => valueMenu(button, keys, value, narrow),
  onReplay: ({ time }) => apply({ since: new Date(time).toISOString(), speed: '1' }),
});
const builder = new Builder({ onApply: apply, headers });
const top = new TopValues({ live, onCondition: narrow });
const speeds = new Speeds({ label: 'Speed of the replay', onPick: replayAt });
const schemaView = new SchemaView();
const snippets = new Snippets();
const streams = new Streams({
  onPick: (names) =>
    apply({ streams: names, fields: '', ...(sameStreams(names) ? {} : { filter: '' }) }),
});

function sameStreams(names) {
  return names.some((name) => request.streams.includes(name));
}

function narrow(condition) {
  apply({ filter: narrowed(request.filter, condition) });
}

// Changes parts of the request, and reads the events that it now selects.
function apply(changes) {
  const changed = { ...request, ...changes };
  if (toHash(changed) !== location.hash) history.pushState(null, '', toHash(changed));
  request = changed;
  start();
}

// Waits before the next attempt, as after a lost connection. `failures` is their number so far.
async function waitToRetry(failures, why) {
  const left = backOffMs(failures);
  show({ kind: 'waiting', text: 'Not connected', until: Date.now() + left });
  rows.empty(`${why}. The page retries automatically.`);
  await new Promise((resolve) => {
    const timer = setTimeout(resolve, left);
    retryNow = () => {
      clearTimeout(timer);
      resolve();
    };
  });
  retryNow = null;
  show({ kind: 'connecting', text: 'Connecting …' });
}

async function start() {
  const started = ++starts;
  retryNow?.();
  reading?.close();
  reading = null;
  rows.toNewest();
  live.clear();
  byId('notices').replaceChildren();
  show({ kind: 'connecting', text: 'Connecting …' });
  rows.empty('');
  builder.show(request);
  streams.choose(request.streams);
  const chosen = request.streams.map((name) => streams.get(name)).filter(Boolean);
  describe(chosen);
  snippets.show(request, { needsToken: chosen.some(({ scope }) => scope) });
  const ask = () => Promise.all([builder.explain(request), withSchemas(chosen, started)]);
  let [explained] = await ask();
  for (let failures = 1; isPassing(explained.status); failures += 1) {
    if (started !== starts) return;
    await waitToRetry(failures, explained.refused);
    if (started !== starts) return;
    [explained] = await ask();
  }
  if (started !== starts) return;
  schemaView.show(chosen);
  byId('access').hidden = !token && ![401, 403].includes(explained.status);
  if (explained.refused) {
    const name = nameOfRefusal(explained);
    show({ kind: 'refused', text: explained.refused, name });
    const isFilter = name === 'Invalid filter';
    rows.empty(
      isFilter
        ? 'The filter is invalid, so no events are read.'
        : 'The request was not accepted, so no events are read.',
      isFilter && clearFilter(),
    );
    return;
  }
  const { filter, recent } = explained.explanation;
  if (filter && recent.looked_at && !recent.matched) {
    rows.empty(noMatch(recent.looked_at), clearFilter());
  } else rows.empty('No events yet. New events appear here as they arrive.');
  reading = new Reading({
    request,
    explained: explained.explanation,
    nameOf: ({ meta }) => nameOf(meta),
    token,
    onState: show,
    onNotice: notice,
    onEvent: receive,
    onLive: (wasReplay) => {
      if (wasReplay) live.restartRate();
      live.beginRate();
    },
  });
  const current = reading;
  await current.run();
}

function noMatch(count) {
  if (count === 1) return 'The newest event does not match this filter.';
  return `None of the newest ${count.toLocaleString('en')} events matches this filter.`;
}

function showEmptyRange() {
  if (request.filter) rows.empty('No event in this range matches this filter.', clearFilter());
  else rows.empty('This range has no events.');
}

function clearFilter() {
  const onclick = () => apply({ filter: '' });
  return h('button', { type: 'button', onclick }, 'Clear the filter');
}

// Returns the text of the badge for a refused request.
function nameOfRefusal({ refused, status }) {
  if (status === 401 || status === 403) return 'Access denied';
  return refused.startsWith('Invalid filter') ? 'Invalid filter' : 'Request refused';
}

function nameOf(meta) {
  const { topic, stream } = Object(meta);
  return (
    streams.nameOfTopic(topic, request.streams) ??
    (typeof stream === 'string' ? stream : request.streams[0])
  );
}

async function withSchemas(chosen, started) {
  const schemas = await Promise.all(chosen.map(({ schema_title: title }) => newestSchema(title)));
  if (started !== starts) return;
  described = chosen.map((stream, i) => ({
    ...stream,
    name: request.streams[i],
    schema: schemas[i],
  }));
  look();
}

// Chooses columns, and the fields that completion and top values offer.
function look() {
  const sample = live.newest().slice(-200);
  const columns = columnsOf({ streams: described, fields: request.fields, sample });
  rows.columns(columns);
  const documents = sample.slice(-20).map(({ data }) => data);
  const fields = described.flatMap(({ schema }) => fieldsOf(schema, documents));
  const unique = [...new Map(fields.map((field) => [JSON.stringify(field.keys), field])).values()];
  builder.completes(unique);
  byId('filter').placeholder = exampleFilter(columns, unique, sample.at(-1)?.data);
  const preferred =
    described.length > 1 ? ['meta', 'stream'] : columns.find(({ keys }) => keys)?.keys;
  top.fields(unique, preferred ?? null, request.streams.join());
}

// Returns an example of a filter for these events: on one of their columns, or on another field.
function exampleFilter(columns, fields, document) {
  const known = new Set(fields.map(({ keys }) => JSON.stringify(keys)));
  if (['wiki', 'bot'].every((name) => known.has(JSON.stringify([name])))) {
    return "event.wiki == 'enwiki' && !event.bot";
  }
  const own = fields.filter(
    ({ keys, isScalar }) => isScalar && keys[0] !== 'meta' && keys[0] !== '$schema',
  );
  const candidates = [...columns.filter(({ keys }) => keys), ...own];
  const written = candidates.flatMap(({ keys }) => {
    const value = valueAt(document ?? {}, keys);
    return value === undefined || value === null ? [] : (condition(keys, value, true) ?? []);
  });
  const found = written.find((text) => text.length <= EXAMPLE_LENGTH);
  if (found) return found;
  const text = own.find(({ types }) => types.includes('string')) ?? own[0];
  return `${(text && reference(text.keys)) ?? 'event.field'} == '…'`;
}

function receive(event) {
  live.add(event, { isRate: reading?.isLive || reading?.isReplay });
  if (LOOKS.includes(live.total) && !live.isPaused) look();
}

// Shows the title and the description of the chosen streams.

function describe(chosen) {
  byId('title').textContent = request.streams.join(' + ') || 'No stream';
  byId('description').textContent = chosen.length === 1 ? (chosen[0].description ?? '') : '';
  document.title = request.streams.length
    ? `${request.streams.join(', ')} · eventstreams`
    : 'eventstreams';
  schemaView.show(chosen);
}

function show(next) {
  state = next;
  if (next.kind === 'refused' && !next.name) notice(next.text, 'warning');
  if (next.kind === 'ended' && !live.total) showEmptyRange();
  if (next.kind === 'waiting') document.querySelector('.notice.good')?.remove(); // no longer true
  draw();
}

function draw() {
  const opened = live.isPaused ? 'paused' : reading?.isReplay ? 'replay' : 'open';
  const kind = state.kind === 'open' ? opened : state.kind;
  const text =
    { replay: 'Replay', paused: 'Paused', open: reading?.isLive ? 'Live' : 'Connected' }[kind] ??
    {
      connecting: state.text,
      waiting: state.text,
      ended: 'Ended',
      refused: state.name ?? 'Request refused',
    }[kind];
  const pill = byId('state');
  pill.dataset.kind = kind;
  if (pill.textContent !== text) pill.textContent = text; // screen readers announce each change
  byId('more').textContent = more(kind);
  const pause = byId('pause');
  const label = live.isPaused
    ? `Resume${live.fresh ? ` · ${live.fresh.toLocaleString('en')} new` : ''}`
    : 'Pause';
  if (pause.textContent !== label) pause.textContent = label;
  pause.dataset.kind = live.isPaused ? 'paused' : '';
  byId('speeds').hidden = !request.since || kind === 'refused';
  speeds.show(request.speed, reading?.isReplay && kind !== 'ended' ? '' : 'Starts the replay again');
  const cut = byId('cut');
  cut.hidden = !['open', 'replay', 'paused', 'waiting'].includes(kind);
  if (cut.dataset.kind === kind) return;
  cut.dataset.kind = kind;
  const rest = h('span', { class: 'rest-of-name' }, ' the connection'); // which a phone leaves out
  cut.replaceChildren(...(kind === 'waiting' ? ['Reconnect now'] : ['Cut', rest]));
}

function more(kind) {
  if (kind === 'waiting') {
    const ms = state.until - Date.now();
    return ms < 500 ? 'reconnecting …' : `reconnecting in ${duration(ms)}`;
  }
  if (kind === 'ended') return state.text;
  const newest = live.newest().at(-1)?.time ?? null;
  if (kind === 'open' && reading?.isLive && newest !== null && Date.now() - newest > QUIET_MS) {
    return `last event ${ago(newest)}`;
  }
  if (reading?.isReplay && reading.pace.ms !== null) {
    const reached = moment(reading.pace.ms);
    if (kind === 'paused') return reached;
    if (kind === 'replay') return `${reached}, ${duration(Date.now() - reading.pace.ms)} behind`;
  }
  return '';
}

function notice(text, kind) {
  const dismiss = h(
    'button',
    {
      type: 'button',
      class: 'quiet',
      'aria-label': 'Dismiss',
      onclick: ({ target }) => target.parentElement.remove(),
    },
    '×',
  );
  byId('notices').replaceChildren(
    h('p', { class: `notice ${kind}` }, h('span', {}, text), dismiss),
  );
}

function tabs() {
  const all = [...document.querySelectorAll('[role=tab]')];
  const pick = (chosen, isFocused) => {
    for (const tab of all) {
      const isChosen = tab === chosen;
      tab.setAttribute('aria-selected', String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      byId(tab.getAttribute('aria-controls')).hidden = !isChosen;
    }
    if (isFocused) chosen.focus();
    rows.update(true);
  };
  all.forEach((tab, i) => {
    tab.addEventListener('click', () => pick(tab, false));
    tab.addEventListener('keydown', ({ key }) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1 + all.length, Home: 0, End: all.length - 1 }[
        key
      ];
      if (to !== undefined) pick(all[to % all.length], true);
    });
  });
}

// Changes the speed of the replay, or starts it again where it has reached its end.
function replayAt(speed) {
  request = { ...request, speed };
  history.replaceState(null, '', toHash(request));
  if (!reading?.isReplay || state.kind === 'ended') {
    start();
    return;
  }
  builder.show(request);
  reading.pace.speed(speed);
  draw();
}

async function load() {
  byId('rail').append(new RateChart(live).element, top.element);
  byId('list').append(rows.element, rows.instead);
  tabs();
  byId('speeds').append(speeds.element);
  live.onChange(() => {
    reading?.pace.pause(live.isPaused); // a paused replay continues where it stopped
    requestDraw();
  });
  setInterval(draw, 1000);
  byId('pause').addEventListener('click', () => {
    if (live.isPaused) rows.toNewest();
    else live.pause('button');
  });
  byId('cut').addEventListener('click', () => {
    if (retryNow) retryNow();
    else if (state.kind === 'waiting') reading?.retryNow();
    else reading?.cut(CUT_MS);
  });
  byId('access').addEventListener('submit', (event) => {
    event.preventDefault();
    token = byId('token').value.trim();
    start();
  });
  for (const kind of ['popstate', 'hashchange']) {
    addEventListener(kind, () => {
      const wanted = fromHash(location.hash);
      if (toHash(wanted) === toHash(request) || !wanted.streams.length) return;
      request = wanted;
      start();
    });
  }
  addEventListener('keydown', (event) => {
    // A click on a row leaves the focus with the page.
    if (event.key === 'Escape' && event.target === document.body) rows.closeRow();
    if (
      event.target.matches('input, select, textarea, summary') ||
      event.ctrlKey ||
      event.metaKey ||
      event.altKey
    )
      return;
    if (event.key === '/') {
      event.preventDefault();
      byId('filter').focus();
    }
  });
  const box = byId('streams-box');
  const narrow = matchMedia('(max-width: 60rem)');
  const fold = () => {
    box.open = !narrow.matches;
  };
  narrow.addEventListener('change', fold);
  fold();
  byId('streams').addEventListener('click', ({ target }) => {
    if (!narrow.matches || !target.closest('.pick')) return;
    fold();
    box.firstElementChild.focus();
  });
  addEventListener('online', () => retryNow?.());
  await loadStreams();
  if (!request.streams.length) {
    request = { ...request, streams: [streams.busiest] };
    history.replaceState(null, '', toHash(request));
  }
  await start();
}

async function loadStreams() {
  for (let failures = 1; ; failures += 1) {
    try {
      await streams.load();
      return;
    } catch (error) {
      await waitToRetry(failures, error.message);
    }
  }
}

let isDrawDue = false;

// Draws at most ten times a second, however many events arrive.
function requestDraw() {
  if (isDrawDue) return;
  isDrawDue = true;
  setTimeout(() => {
    isDrawDue = false;
    draw();
  }, 100);
}

load();
