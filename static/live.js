// Shows the newest events of one stream. The browser itself reconnects and resumes.
'use strict';

const KEPT = 100;
const stream = document.getElementById('stream');
const toggle = document.getElementById('toggle');
const state = document.getElementById('state');
const list = document.getElementById('events');
let source = null;
let count = 0;

function say(text, kind = '') {
  state.textContent = text;
  state.dataset.kind = kind;
}

function cell(text) {
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
    cell((meta.dt ?? '').slice(11, 23)),
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
  source = null;
  toggle.textContent = 'Start';
  say('Stopped');
}

function start() {
  count = 0;
  list.replaceChildren();
  source = new EventSource(`/v2/stream/${encodeURIComponent(stream.value)}`);
  toggle.textContent = 'Stop';
  say('Connecting …');
  source.onopen = () => say('Live: waiting for events', 'open');
  source.onmessage = show;
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
stream.addEventListener('change', () => { if (source) { stop(); start(); } });

async function load() {
  try {
    const answer = await fetch('/v2/streams');
    const { streams } = await answer.json();
    for (const name of Object.keys(streams)) stream.add(new Option(name, name));
    const wanted = new URLSearchParams(location.hash.replace(/^#\/?\??/, '')).get('streams');
    if (wanted && streams[wanted]) stream.value = wanted;
    start();
  } catch (error) {
    say(`The catalogue can't be read: ${error.message}`, 'error');
  }
}

load();
