// The request builder: filter, fields, begin and end, and the gateway's explanation of the request.

import { byId, counted } from './dom.js';
import { refusal } from './connection.js';
import { Completion } from './completion.js';
import { parameters, REPLAY_SPEED } from './request.js';
import { Speeds, TimePicker } from './time.js';

const PAUSE_MS = 500; // between the last key and the request for an explanation
const PLACE = /^Invalid filter at line (\d+), column (\d+): /;

export class Builder {
  // `onApply(changes)` is called with the changed parts of the request.
  // `headers()` returns the headers that authorise a request.
  constructor({ onApply, headers }) {
    this._onApply = onApply;
    this._headers = headers;
    this._filter = byId('filter');
    this._fields = byId('fields');
    this._explained = byId('explained');
    this._whole = byId('whole');
    this._underline = byId('underline');
    this._asked = 0;
    this._streams = [];
    this._completion = new Completion(this._filter, byId('suggestions'));
    this._speeds = new Speeds({
      label: 'Speed of the replay',
      onPick: (speed) => this._speeds.show(speed),
    });
    this._speeds.show(REPLAY_SPEED);
    this._since = new TimePicker({
      name: 'since',
      label: 'From',
      onPick: (since) => onApply({ since, speed: this._speeds.speed }),
      more: this._speeds.element,
    });
    this._until = new TimePicker({
      name: 'until',
      label: 'To',
      onPick: (until) => onApply({ until }),
    });
    byId('times').append(this._since.element, this._until.element);
    byId('request').addEventListener('submit', (event) => {
      event.preventDefault();
      this._apply();
    });
    this._fields.addEventListener('change', () => this._apply());
    for (const kind of ['input', 'completed'])
      this._filter.addEventListener(kind, () => this._changed());
    this._filter.addEventListener('scroll', () => {
      this._underline.scrollLeft = this._filter.scrollLeft;
    });
    this._whole.addEventListener('click', () =>
      this._showWhole(!('whole' in this._explained.dataset)),
    );
    new ResizeObserver(() => this._offerWhole()).observe(this._explained);
    byId('clear').addEventListener('click', () =>
      onApply({ filter: '', fields: '', since: '', until: '' }),
    );
  }

  show(request) {
    this._streams = request.streams;
    this._filter.value = request.filter;
    this._fields.value = request.fields;
    this._since.show(request.since);
    if (request.since) this._speeds.show(request.speed);
    this._until.show(request.until);
    this._request = request;
    byId('clear').hidden = !(request.filter || request.fields || request.since || request.until);
  }

  // The fields that completion offers, as fieldsOf gives them.
  completes(fields) {
    this._completion.fields(fields);
  }

  // Gets the gateway's explanation of a request, and shows it unless another request was made
  // meanwhile. Returns { explanation }, or { refused, status } if the request would be refused.
  async explain(request) {
    const asked = ++this._asked;
    clearTimeout(this._timer);
    const query = parameters(request);
    query.set('streams', request.streams.join(','));
    let found;
    try {
      const answer = await fetch(`/v2/explain?${query}`, { headers: this._headers() });
      found = answer.ok
        ? { explanation: await answer.json() }
        : { refused: await refusal(answer), status: answer.status };
    } catch (error) {
      found = { refused: `The gateway cannot be reached (${error.message})`, status: 0 };
    }
    if (asked === this._asked) this._show(found, request);
    return found;
  }

  _apply() {
    this._onApply({ filter: this._filter.value.trim(), fields: this._fields.value.trim() });
  }

  _changed() {
    this._mark(null);
    clearTimeout(this._timer);
    this._asked += 1;
    if (!this._streams.length) return;
    const filter = this._filter.value; // unchanged, because errors give places in this text
    this._timer = setTimeout(() => this.explain({ ...this._request, filter }), PAUSE_MS);
  }

  _show({ explanation, refused }, { filter }) {
    const isFilter = refused?.startsWith('Invalid filter') || refused?.startsWith('The filter');
    this._filter.setAttribute('aria-invalid', String(Boolean(isFilter)));
    this._explained.dataset.kind = refused ? 'error' : explanation.warnings.length ? 'warning' : '';
    const text = refused ? inOneLine(refused) : inWords(explanation);
    if (this._explained.textContent !== text) {
      this._explained.textContent = text;
      this._showWhole(false);
    }
    this._mark(refused?.match(PLACE) ?? null, filter);
  }

  // Shows the explanation in as many lines as it needs, or in one.
  _showWhole(isWhole) {
    this._explained.toggleAttribute('data-whole', isWhole);
    this._whole.setAttribute('aria-expanded', String(isWhole));
    this._whole.textContent = isWhole ? 'Show less' : 'Show all';
    this._offerWhole();
  }

  // Offers the rest of a text that has no room in its line.
  _offerWhole() {
    const { scrollWidth, clientWidth, dataset } = this._explained;
    this._whole.hidden = !('whole' in dataset) && scrollWidth <= clientWidth;
  }

  // Underlines the filter where it is wrong. `place`: a match of PLACE.
  _mark(place, filter = '') {
    const begin = place && place[1] === '1' ? Number(place[2]) - 1 : -1;
    const length = filter.slice(Math.max(0, begin)).match(/^\w+|^[^\w\s]+|^\s+/)?.[0].length ?? 1;
    const characters = [...filter];
    const mark = document.createElement('mark');
    mark.textContent = characters.slice(begin, begin + length).join('') || ' ';
    const before = characters.slice(0, Math.max(0, begin)).join('');
    this._underline.replaceChildren(...(begin >= 0 ? [before, mark] : []));
    this._underline.scrollLeft = this._filter.scrollLeft;
  }
}

function inOneLine(refused) {
  const first = refused.split('\n')[0];
  return first.replace(PLACE, (_, line, column) => `Column ${column}: `);
}

// Returns the explanation in one line.
function inWords({ recent, since, warnings, filter, start }) {
  const parts = [...warnings];
  if (recent.looked_at) {
    const {
      matched,
      looked_at: all,
      events_per_second: rate,
      bytes_per_second: bytes,
      bytes_per_event: size,
    } = recent;
    if (filter) parts.push(matches(matched, all));
    if (rate) parts.push(rate < 0.01 ? 'fewer than 0.01 events/s' : `about ${round(rate)} events/s`);
    if (bytes) parts.push(`${inBytes(bytes)}/s`);
    if (size !== null) parts.push(`${inBytes(size)} per event`);
  } else parts.push('No events are stored yet');
  if (recent.error) parts.push(recent.error);
  if (since) {
    const behind = start.reduce((sum, place) => sum + place.behind, 0);
    parts.push(since.note ?? `starts ${counted(behind, 'event')} ago`);
  }
  const text = parts.join(' · ');
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function matches(count, all) {
  if (all === 1) return `${count ? 'Matches' : 'Does not match'} the newest event`;
  const share = percent(count / all);
  return `Matches ${count.toLocaleString('en')} of the newest ${counted(all, 'event')} (${share})`;
}

function percent(share) {
  const value = 100 * share;
  return `${value > 0 && value < 1 ? value.toPrecision(1) : Math.round(value)} %`;
}

function round(number) {
  return number.toLocaleString('en', { maximumSignificantDigits: number < 10 ? 2 : 3 });
}

function inBytes(bytes) {
  if (bytes < 1000) return `${Math.round(bytes)} B`;
  return bytes < 1e6 ? `${round(bytes / 1e3)} KB` : `${round(bytes / 1e6)} MB`;
}
