// Lists the most frequent values of a field among the newest events. A click adds a condition.

import { counted, h } from './dom.js';
import { topValues } from './live.js';
import { textOf } from './columns.js';
import { condition } from './request.js';

const EVERY_MS = 1000;

export class TopValues {
  constructor({ live, onCondition }) {
    this._live = live;
    this._onCondition = onCondition;
    this._keys = null; // those of the field
    this._isChosen = false; // whether a person chose the field
    this._streams = null;
    this._settledBegan = null; // of the request whose events the list shows
    this._select = h('select', {
      'aria-label': 'Field whose top values are shown',
      id: 'top-field',
    });
    this._list = h('ol', { class: 'top' });
    this._about = h('p', { class: 'muted small' });
    this._select.addEventListener('change', () => {
      this._keys = JSON.parse(this._select.value);
      this._isChosen = true;
      this._draw();
    });
    this.element = h(
      'section',
      { class: 'values' },
      h('h2', {}, 'Top values'),
      this._select,
      this._list,
      this._about,
    );
    setInterval(() => this._refresh(), EVERY_MS);
  }

  // `fields`: as fieldsOf gives them; `preferred`: the keys to begin with; `streams`: whose fields.
  fields(fields, preferred, streams) {
    const isSameStreams = streams === this._streams;
    if (!isSameStreams) this._isChosen = false;
    this._streams = streams;
    const options = new Map(
      fields.filter(({ isScalar }) => isScalar).map(({ keys }) => [JSON.stringify(keys), keys]),
    );
    const before = JSON.stringify(this._keys);
    if (this._isChosen) options.set(before, this._keys);
    else this._keys = options.get(JSON.stringify(preferred)) ?? [...options.values()][0] ?? null;
    this._select.replaceChildren(
      ...[...options].map(([value, keys]) => h('option', { value }, keys.join('.'))),
    );
    if (this._keys) this._select.value = JSON.stringify(this._keys);
    if (isSameStreams && before === JSON.stringify(this._keys)) {
      this._refresh();
      return;
    }
    if (this._list.contains(document.activeElement)) this._select.focus();
    this._draw();
  }

  // Draws the list again, unless that would move it under the pointer or the keyboard's focus. After a
  // click in it, it follows in any case until the newest stored events are here.
  _refresh() {
    const { began, total, rateS } = this._live;
    const isOther = began !== this._settledBegan && (total > 0 || rateS > 0);
    if (isOther || !this._list.matches(':hover, :has(:focus-visible)')) this._draw();
  }

  _draw() {
    if (!this._keys) return;
    const events = this._live.newest();
    this._settledBegan = this._live.rateS > 0 ? this._live.began : null;
    const buttons = () => [...this._list.querySelectorAll('button')];
    const focused = buttons().indexOf(document.activeElement);
    const { top, distinct, having } = topValues(events, this._keys);
    const most = top[0]?.[1] ?? 1;
    this._list.replaceChildren(
      ...top.map(([value, count]) => this._entry(value, count, most, having)),
    );
    if (focused >= 0) (buttons()[focused] ?? this._select).focus();
    const rest = distinct - top.length;
    this._about.textContent = events.length ? about(events.length, having, rest) : '';
  }

  _entry(value, count, most, having) {
    const text = value === '' ? '(empty)' : textOf(value) || 'null';
    const share = Math.round((100 * count) / having);
    const bar = h('span', { class: 'bar' });
    bar.style.inlineSize = `${(100 * count) / most}%`;
    const pick = (label, isWanted, ...content) =>
      h(
        'button',
        {
          type: 'button',
          class: isWanted ? 'only' : 'not',
          title: label,
          'aria-label': label,
          onclick: () => {
            const written = condition(this._keys, value, isWanted);
            if (written) this._onCondition(written);
          },
        },
        ...content,
      );
    return h(
      'li',
      {},
      pick(
        `Only ${text} ${share} %`,
        true,
        bar,
        h('span', { class: 'text' }, text),
        ' ',
        h('span', { class: 'count' }, `${share} %`),
      ),
      pick(`Not ${text}`, false, '≠'),
    );
  }
}

// `rest`: how many values are not listed.
function about(all, having, rest) {
  if (!having) return 'No events have this field.';
  if (all === 1) return 'The newest event';
  const newest = `he newest ${counted(all, 'event')}`;
  const where = having === all ? `T${newest}` : `${having.toLocaleString('en')} of t${newest}`;
  return rest > 0 ? `${where}, with ${counted(rest, 'more value')}` : where;
}
