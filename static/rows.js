// The list of events: a fixed number of rows in the document, however many events there are.
//
// Rows are placed over a canvas as high as the whole list and filled with the events that are in
// sight. One row may be open; its document lies below it and moves the rows after it down.

import { widths } from './columns.js';
import { copyButton, h } from './dom.js';
import { parse, print, tree } from './json.js';
import { moment } from './time.js';

const OVERSCAN = 4;
const EVERY_MS = 120; // nobody reads faster than this, and drawing takes processor time
const LEAVING_MS = 1000; // the time to move the pointer from the rows to the button that resumes

export class Rows {
  // `onValue(button, keys, value)`: a value of an open document was chosen.
  // `onReplay(event)`: the user chose to replay the events from this one on.
  constructor({ live, onValue, onReplay }) {
    this._live = live;
    this._onValue = onValue;
    this._onReplay = onReplay;
    this._columns = [];
    this._shown = []; // those of the columns for which there is room
    this._pool = []; // in the order of the document, which is that of the events
    this._first = 0; // the index of the first one's event
    this._active = 0;
    this._open = null; // { index, event, height }
    this._dueAt = 0;
    this._isDue = false;
    this._head = h('div', { role: 'row', class: 'row head' });
    this._body = h('div', { role: 'rowgroup', class: 'canvas' });
    this._detail = h('div', { role: 'row', class: 'detail', hidden: true });
    this._body.append(this._detail);
    this.instead = h('div', { class: 'empty muted', hidden: true });
    this.element = h(
      'div',
      { class: 'events', role: 'table', 'aria-label': 'Events, newest first', id: 'events' },
      h('div', { role: 'rowgroup', class: 'heads' }, this._head),
      this._body,
    );
    this._listen();
    live.onChange(() => this.update());
  }

  columns(columns) {
    this._columns = columns;
    const narrow = matchMedia('(max-width: 45rem)').matches;
    const shown = columns.filter(({ isNarrow }) => !narrow || isNarrow);
    this._shown = shown;
    this._widen();
    this._head.replaceChildren(
      h('div', { role: 'columnheader' }, h('span', { class: 'offscreen' }, 'Open')),
      ...shown.map(({ title, isNumber }) =>
        h('div', { role: 'columnheader', class: isNumber && 'number' }, title),
      ),
    );
    for (const { element } of this._pool) element.remove();
    this._pool = [];
    this.update(true);
  }

  _widen() {
    this.element.style.setProperty('--columns', ['2rem', ...widths(this._shown)].join(' '));
  }

  // What `instead` shows while there is no event: a text, and a button or nothing after it.
  empty(text, button = null) {
    this.instead.replaceChildren(h('p', {}, text), ...(button ? [button] : []));
    this.update(true);
  }

  closeRow() {
    if (!this._open) return;
    this._open = null;
    this._detail.hidden = true;
    this._detail.replaceChildren();
    this._live.resume('open');
    this.update(true);
  }

  // Shows the newest events again, whatever held them back.
  toNewest() {
    this.closeRow();
    this.element.scrollTop = 0;
    this._live.resumeAll();
    this.update(true);
  }

  update(now = false) {
    if (now) this._dueAt = 0;
    if (this._isDue) return;
    this._isDue = true;
    requestAnimationFrame(() => this._tick());
  }

  _tick() {
    const now = performance.now();
    if (now < this._dueAt) {
      setTimeout(() => requestAnimationFrame(() => this._tick()), this._dueAt - now);
      return;
    }
    this._isDue = false;
    this._dueAt = now + EVERY_MS;
    this._render();
  }

  _render() {
    const live = this._live;
    live.look();
    const height = this._rowHeight();
    const openHeight = this._open?.height ?? 0;
    this._body.style.height = `${live.size * height + openHeight}px`;
    this.instead.hidden = live.size > 0;
    const inSight = Math.ceil(this.element.clientHeight / height) + 2 * OVERSCAN;
    while (this._pool.length < inSight) this._pool.push(this._row());
    const top = this.element.scrollTop;
    const isBelow = this._open && top > (this._open.index + 1) * height;
    const first = Math.max(
      0,
      Math.floor(
        (isBelow ? Math.max(top - openHeight, (this._open.index + 1) * height) : top) / height,
      ) - OVERSCAN,
    );
    this._turn(first);
    this._pool.forEach((row, i) => this._fill(row, first + i, height, openHeight));
    if (this._open) {
      this._detail.style.transform = `translateY(${(this._open.index + 1) * height}px)`;
      this._placeDetail();
    }
    this._rove(first);
  }

  // Moves rows from one end to the other, so that those that stay in sight keep their elements and
  // the focus that one of them may have.
  _turn(first) {
    const by = first - this._first;
    this._first = first;
    if (by === 0 || Math.abs(by) >= this._pool.length) return;
    const moved = by > 0 ? this._pool.splice(0, by) : this._pool.splice(by);
    const elements = moved.map(({ element }) => element);
    if (by > 0) {
      this._pool.push(...moved);
      this._body.append(...elements);
    } else {
      this._pool.unshift(...moved);
      this._body.prepend(...elements);
    }
  }

  // Puts the open document after its row, so that Tab goes from the row into it.
  _placeDetail() {
    if (this._detail.contains(document.activeElement)) return; // moving it would take its focus
    const row = this._pool.find(({ index }) => index === this._open.index)?.element;
    if (row && row.nextSibling !== this._detail) row.after(this._detail);
  }

  // The height in pixels that rows have, below the row of titles.
  _inSight() {
    return this.element.clientHeight - this._head.offsetHeight;
  }

  _rowHeight() {
    return parseFloat(getComputedStyle(this.element).getPropertyValue('--row')) || 34;
  }

  _row() {
    const toggle = h('button', { type: 'button', class: 'toggle', tabindex: '-1' });
    const cells = this._shown.map(({ isNumber }) =>
      h('div', { role: 'cell', class: isNumber && 'number' }),
    );
    const element = h(
      'div',
      { role: 'row', class: 'row' },
      h('div', { role: 'cell' }, toggle),
      ...cells,
    );
    const row = { element, toggle, cells, index: -1, event: null };
    element.addEventListener('click', ({ target }) => {
      if (!target.closest('a')) this._toggle(row);
    });
    this._body.append(element);
    return row;
  }

  _fill(row, index, height, openHeight) {
    const event = index < this._live.size ? this._live.at(index) : undefined;
    row.element.hidden = event === undefined;
    row.index = index;
    if (event === undefined) return;
    const below = this._open && index > this._open.index ? openHeight : 0;
    row.element.style.transform = `translateY(${index * height + below}px)`;
    const isOpen = this._open?.event === event;
    row.element.classList.toggle('open', isOpen);
    row.element.classList.toggle('odd', event.number % 2 === 1);
    row.toggle.setAttribute('aria-expanded', String(isOpen));
    if (row.event !== event) this._draw(row, event);
    // Only the links of the open row are in the tab order.
    for (const link of row.element.querySelectorAll('a')) link.tabIndex = isOpen ? 0 : -1;
  }

  _draw(row, event) {
    row.event = event;
    this._shown.forEach((column, i) => {
      const shown = column.render(event);
      const cell = row.cells[i];
      if (typeof shown === 'string') cell.textContent = shown;
      else cell.replaceChildren(...shown);
      cell.title = cell.textContent;
      if (column.isNumber && cell.title.length > column.longest) {
        column.longest = cell.title.length;
        this._widen();
      }
    });
    row.toggle.setAttribute('aria-label', `Event ${event.number}, ${row.cells[0].textContent}`);
  }

  // Of all rows, Tab reaches one; the arrow keys go on from there.
  _rove(first) {
    const rows = this._pool.filter(({ element }) => !element.hidden);
    const active =
      rows.find(({ index }) => index === this._active) ?? rows.find(({ index }) => index >= first);
    for (const { toggle } of rows) toggle.tabIndex = -1;
    if (active) active.toggle.tabIndex = 0;
  }

  _toggle(row) {
    const { event, index } = row;
    if (this._live.at(index) !== event) return; // the list was cleared since the last drawing
    if (this._open?.event === event) {
      this.closeRow();
      return;
    }
    this._live.pause('open');
    this._open = { index, event, height: 0 };
    this._active = index;
    const document = parse(event.raw);
    const { topic, partition, offset } = Object(Object(document).meta);
    const place = topic === undefined ? '' : `${topic} · partition ${partition} · offset ${offset}`;
    this._detail.replaceChildren(
      h(
        'div',
        { role: 'cell' },
        h(
          'div',
          { class: 'tools' },
          copyButton('Copy JSON', () => print(document)),
          event.time !== null &&
            h(
              'button',
              { type: 'button', class: 'quiet', onclick: () => this._onReplay(event) },
              'Replay from here',
            ),
          h(
            'span',
            { class: 'muted' },
            [event.time === null ? '' : moment(event.time), place].filter(Boolean).join(' · '),
          ),
        ),
        tree(document, this._onValue),
      ),
    );
    this._detail.hidden = false;
    this._open.height = this._detail.offsetHeight;
    this._render(); // at once, so that the next Tab goes from the row into its document
  }

  _measure() {
    if (!this._open) return;
    this._open.height = this._detail.offsetHeight;
    this.update(true);
  }

  _listen() {
    const { element: scroller, _live: live } = this;
    let leaving = null;
    new ResizeObserver(() => this._measure()).observe(this._detail);
    new ResizeObserver(() => this.update(true)).observe(scroller);
    matchMedia('(max-width: 45rem)').addEventListener('change', () => this.columns(this._columns));
    scroller.addEventListener(
      'scroll',
      () => {
        if (scroller.scrollTop > 0) live.pause('scroll');
        else live.resume('scroll');
        this.update(true);
      },
      { passive: true },
    );
    scroller.addEventListener('pointerenter', ({ pointerType }) => {
      clearTimeout(leaving);
      if (pointerType === 'mouse' && live.size) live.pause('pointer');
    });
    scroller.addEventListener('pointerleave', () => {
      leaving = setTimeout(() => live.resume('pointer'), LEAVING_MS);
    });
    scroller.addEventListener('focusin', ({ target }) => {
      if (target.matches(':focus-visible')) live.pause('focus');
    });
    scroller.addEventListener('focusout', ({ relatedTarget }) => {
      if (!scroller.contains(relatedTarget)) live.resume('focus');
    });
    scroller.addEventListener('keydown', (event) => this._key(event));
  }

  _key(event) {
    if (event.key === 'Escape' && this._open) {
      const { index } = this._open;
      this.closeRow();
      this._focus(index);
      return;
    }
    if (!event.target.matches('.toggle')) return;
    const last = this._live.size - 1;
    const page = Math.max(1, Math.floor(this.element.clientHeight / this._rowHeight()) - 1);
    const to = {
      ArrowDown: this._active + 1,
      ArrowUp: this._active - 1,
      PageDown: this._active + page,
      PageUp: this._active - page,
      Home: 0,
      End: last,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this._focus(Math.min(last, Math.max(0, to)));
  }

  _focus(index) {
    this._live.pause('focus'); // before newer events are drawn, which would move the row
    const height = this._rowHeight();
    const below = this._open && index > this._open.index ? this._open.height : 0;
    const top = index * height + below;
    const { element: scroller } = this;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + height > scroller.scrollTop + this._inSight()) {
      scroller.scrollTop = top + height - this._inSight();
    }
    this._active = index;
    this._render();
    this._pool.find((row) => row.index === index && !row.element.hidden)?.toggle.focus();
  }
}
