// The operators' page: live figures of the gateway, its relays and its propagation rules.
//
// The key stays in this tab's sessionStorage. An EventSource cannot send it, so each connection has
// a ticket of its own, which can be used once.

const STORED = 'eventstreams operator key';
const RETRY_MS = 3000;
const byId = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });
let key = sessionStorage.getItem(STORED);
let source = null;
let timer = null;
let before = null; // the figures of the previous event, for rates
let shownAt = null; // the time at which the displayed figures arrived

function say(text, kind = '') {
  if (byId('state').textContent !== text) byId('state').textContent = text;
  byId('state').dataset.kind = kind;
}

async function ask(path) {
  const headers = { Authorization: `Bearer ${key}` };
  const response = await fetch(`/v2/admin/${path}`, { method: 'POST', headers });
  if (response.ok) return response.json();
  const { detail } = await response.json().catch(() => ({}));
  throw Object.assign(new Error(detail ?? `The gateway answered ${response.status}`),
    { status: response.status });
}

function stop() {
  clearTimeout(timer);
  source?.close();
  source = before = null;
}

function forget() {
  stop();
  key = null;
  sessionStorage.removeItem(STORED);
  byId('figures').hidden = byId('forget').hidden = true;
}

async function connect() {
  stop();
  say('Connecting …');
  try {
    const { ticket } = await ask('ticket');
    sessionStorage.setItem(STORED, key);
    source = new EventSource(`/v2/admin/live?${new URLSearchParams({ ticket })}`);
    source.addEventListener('figures', ({ data }) => show(JSON.parse(data)));
    source.onerror = () => again('Connection lost, trying again …');
  } catch (error) {
    if (error.status === 401) forget();
    if (error.status) say(error.message, 'error');
    if (error.status !== 401) again('The gateway does not answer, trying again …');
  }
}

function markOld(isOld) {
  const old = byId('old');
  byId('figures').toggleAttribute('data-old', isOld);
  old.hidden = !isOld;
  if (isOld) old.textContent = `These figures are of ${shownAt.toLocaleTimeString('en-GB')}.`;
}

// A ticket can be used once, so the browser's own attempt to come back would be refused.
function again(text) {
  stop();
  say(text, 'error');
  markOld(shownAt !== null);
  timer = setTimeout(connect, RETRY_MS);
}

const sum = (figures, name) => figures.workers.reduce((all, { numbers }) => all + numbers[name], 0);
const bytes = (count) => `${short.format(count / 2 ** 20)} MiB`;
const of = (used, most) => (most === null ? used : `${used} of ${most}`);

function perSecond(figures, name) {
  if (before === null || figures.time <= before.time) return '…';
  const seconds = figures.time - before.time;
  return short.format(Math.max(0, sum(figures, name) - sum(before, name)) / seconds);
}

function numbersOf(figures) {
  const workers = figures.workers.length + figures.workers_missing;
  const logs = [...new Set(figures.workers.map(({ log }) => log))];
  const unreachable = [...new Set(figures.workers.flatMap((each) => each.unreachable))];
  const { max, used } = figures.streams_limit;
  const limited = (name) => of(bytes(sum(figures, name)), bytes(sum(figures, `${name}_max`)));
  return {
    'Log': logs.join('; '),
    ...(unreachable.length && { 'Unreachable partitions': unreachable.join(', ') }),
    'Workers': of(figures.workers.length, workers),
    'Clients': whole.format(sum(figures, 'clients')),
    ...(max !== null && { 'Streams (limit)': of(used, max) }),
    'Cohorts': whole.format(sum(figures, 'cohorts')),
    'Events in, per s': perSecond(figures, 'events_in'),
    'Events out, per s': perSecond(figures, 'events_out'),
    'Events posted, per s': perSecond(figures, 'posted'),
    'Records behind the log': whole.format(sum(figures, 'lag')),
    'Clients reading history': whole.format(sum(figures, 'catching_up')),
    'Of these, waiting': whole.format(sum(figures, 'catch_up_waiting')),
    'Refused requests': whole.format(sum(figures, 'refused')),
    'Gaps': whole.format(sum(figures, 'gaps')),
    'Newest events in memory': limited('tail_bytes'),
    'Posts in memory': limited('intake_bytes'),
    'Peak memory': bytes(sum(figures, 'peak_memory_bytes')),
    'Version': figures.version,
  };
}

function fill(body, rows) {
  body.replaceChildren(...rows.map((cells) => {
    const row = document.createElement('tr');
    row.append(...cells.map((content, n) => {
      const cell = document.createElement(n === 0 ? 'th' : 'td');
      if (n === 0) cell.scope = 'row';
      cell.append(content);
      return cell;
    }));
    return row;
  }));
}

function action(at, { name, paused }) {
  const button = document.createElement('button');
  button.textContent = paused ? 'Resume' : 'Pause';
  button.setAttribute('aria-label', `${button.textContent} ${name}`);
  button.onclick = async () => {
    button.disabled = true;
    try {
      const command = paused ? 'resume' : 'pause';
      await ask(`propagation/${at}/${command}?${new URLSearchParams({ rule: name })}`);
    } catch (error) {
      say(error.message, 'error');
    }
  };
  return button;
}

function showRules(processes) {
  byId('rules-section').hidden = processes.length === 0;
  const problems = processes.filter(({ problem }) => problem);
  const text = problems.map(({ url, problem }) => `${url}: ${problem}`).join('; ');
  if (byId('rules-problems').textContent !== text) byId('rules-problems').textContent = text;
  if (byId('rules').contains(document.activeElement)) return; // a button would lose the focus
  fill(byId('rules'), processes.flatMap(({ rules }, at) => rules.map((rule) => [
    rule.name, rule.trouble ?? (rule.paused ? 'paused' : 'running'), String(rule.lag ?? 'unknown'),
    String(rule.running), String(rule.waiting), action(at, rule),
  ])));
}

function show(figures) {
  byId('figures').hidden = byId('forget').hidden = false;
  if (figures.problem) {
    say(figures.problem, 'error');
    markOld(shownAt !== null);
    showRules(figures.propagation);
    return;
  }
  say('Connected', 'open');
  shownAt = new Date();
  markOld(false);
  byId('numbers').replaceChildren(...Object.entries(numbersOf(figures)).map(([name, value]) => {
    const pair = document.createElement('div');
    const term = document.createElement('dt');
    const figure = document.createElement('dd');
    term.textContent = name;
    figure.textContent = value;
    pair.append(term, figure);
    return pair;
  }));
  const names = [...new Set(figures.workers.flatMap(({ streams }) => Object.keys(streams)))];
  fill(byId('streams'), names.sort().map((name) => {
    const each = figures.workers.map(({ streams }) => streams[name] ?? { clients: 0, events: 0 });
    const clients = each.reduce((all, one) => all + one.clients, 0);
    const events = Math.max(...each.map((one) => one.events)); // every worker reads all of them
    return [name, whole.format(clients), short.format(events / figures.step_s)];
  }));
  const relays = figures.workers.flatMap((worker) => Object.entries(worker.relays));
  byId('relays-section').hidden = relays.length === 0;
  fill(byId('relays'), relays.map(([name, relay]) => [
    name, relay.connected ? (relay.caught_up ? 'live' : 'catching up') : 'not connected',
    short.format(relay.lag_seconds), whole.format(relay.events), whole.format(relay.gaps),
  ]));
  showRules(figures.propagation);
  before = figures;
}

byId('access').addEventListener('submit', (event) => {
  event.preventDefault();
  key = byId('key').value;
  byId('key').value = '';
  connect();
});
byId('forget').addEventListener('click', () => {
  forget();
  say('Not connected');
});
if (key) connect();
