// Shows the newest events of one stream, filtered by the gateway, which explains the filter first.
// The browser itself reconnects and resumes. What is chosen stands in the address, to be linked to.
'use strict';

const KEPT = 100;
const stream = document.getElementById('stream');
const filter = document.getElementById('filter');
const explained = document.getElementById('explained');
const toggle = document.getElementById('toggle');
const state = document.getElementById('state');
const list = document.getElementById('events');
let source = null;
let starting = null;
let count = 0;

function say(text, kind = '') {
  state.textContent = text;
  state.dataset.kind = kind;
}

function cell(value) {
  const text = typeof value === 'object' ? JSON.stringify(value) : String(value);
  const span = document.createElement('span');
  span.textContent = text;
  span.title = text;
  return span;
}

function show(event) {
  const data = JSON.parse(event.data);
  const meta = data.meta ?? {};
  const summary = document.createElement('summary');
  summary.append(
    cell(String(meta.dt ?? '').slice(11, 23)),
    cell(data.wiki ?? meta.domain ?? meta.topic ?? ''),
    cell(data.type ?? ''),
    cell(data.title ?? data.page_title ?? meta.id ?? ''),
  );
  const whole = document.createElement('pre');
  whole.textContent = JSON.stringify(data, null, 2);
  const details = document.createElement('details');
  details.append(summary, whole);
  const item = document.createElement('li');
  item.append(details);
  list.prepend(item);
  while (list.childElementCount > KEPT) list.lastElementChild.remove();
  count += 1;
  say(`Live: ${count} events`, 'open');
}

function stop() {
  source?.close();
  source = starting = null;
  toggle.textContent = 'Start';
  say('Stopped');
}

// Says what the filter was understood as, or what is wrong with it; returns whether it is right.
async function explain(parameters) {
  const streams = new URLSearchParams({ streams: stream.value });
  const answer = await fetch(`/v2/explain?${streams}&${parameters}`);
  const said = await answer.json();
  explained.dataset.kind = answer.ok ? '' : 'error';
  if (!answer.ok) {
    explained.textContent = said.detail;
  } else if (filter.value.trim()) {
    const { looked_at: all, matched } = said.recent;
    explained.textContent = `${said.filter}\nmatches ${matched} of the newest ${all} events`;
  } else {
    explained.textContent = '';
  }
  return answer.ok;
}

async function start() {
  count = 0;
  list.replaceChildren();
  const parameters = new URLSearchParams(filter.value.trim() ? { filter: filter.value } : {});
  const address = new URLSearchParams({ streams: stream.value, filter: filter.value });
  history.replaceState(null, '', `#?${address}`);
  const choice = starting = {};
  const right = await explain(parameters).catch(({ message }) => {
    explained.textContent = message;
  });
  if (choice !== starting) return; // something else was chosen meanwhile
  if (!right) {
    say('Not connected', 'error');
    return;
  }
  source = new EventSource(`/v2/stream/${encodeURIComponent(stream.value)}?${parameters}`);
  toggle.textContent = 'Stop';
  say('Connecting …');
  source.onopen = () => say('Live: waiting for events', 'open');
  source.onmessage = show;
  source.addEventListener('error', ({ data }) => {
    if (data) explained.textContent = JSON.parse(data).message;
  });
  source.addEventListener('gap', () => say('Some events were no longer kept', 'error'));
  source.onerror = () => {
    if (source?.readyState === EventSource.CLOSED) {
      stop();
      say('The gateway refused the stream', 'error');
    } else {
      say('Connection lost, trying again …', 'error');
    }
  };
}

document.getElementById('choice').addEventListener('submit', (submit) => {
  submit.preventDefault();
  if (source) stop(); else start();
});
for (const chosen of [stream, filter]) {
  chosen.addEventListener('change', () => { stop(); start(); });
}

async function load() {
  try {
    const answer = await fetch('/v2/streams');
    const { streams } = await answer.json();
    for (const name of Object.keys(streams)) stream.add(new Option(name, name));
    const wanted = new URLSearchParams(location.hash.replace(/^#\/?\??/, ''));
    if (streams[wanted.get('streams')]) stream.value = wanted.get('streams');
    filter.value = wanted.get('filter') ?? '';
    await start();
  } catch (error) {
    say(`The catalogue can't be read: ${error.message}`, 'error');
  }
}

load();
