// Formats times and ages, and contains the control that picks a time.

import { h } from './dom.js';
import { SPEEDS } from './request.js';

const pad = (number) => String(number).padStart(2, '0');

// 14:03:07 in local time; empty where no time is known.
export function clock(ms) {
  if (ms === null || Number.isNaN(ms)) return '';
  const at = new Date(ms);
  return [at.getHours(), at.getMinutes(), at.getSeconds()].map(pad).join(':');
}

// 26 Nov 2026, 14:03:07, in local time.
export function moment(ms) {
  return new Date(ms).toLocaleString('en-GB', {
    day: 'numeric',
    month: 'short',
    year: 'numeric',
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
  });
}

// "3 s ago", "2 h ago".
export function ago(ms, now = Date.now()) {
  return `${duration(now - ms)} ago`;
}

export function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 2 * 86400) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

const SINCE = [
  ['', 'Now, live'],
  ['-5m', '5 minutes ago'],
  ['-15m', '15 minutes ago'],
  ['-1h', 'An hour ago'],
  ['-1d', 'A day ago'],
  ['earliest', 'The oldest event kept'],
];
const UNTIL = [
  ['', 'No end'],
  ['-0s', 'Now'],
  ['-5m', '5 minutes ago'],
  ['-15m', '15 minutes ago'],
];

const UNITS = { s: 'second', m: 'minute', h: 'hour', d: 'day' };

// Describes `since` or `until` in words.
export function inWords(name, value) {
  const preset = (name === 'since' ? SINCE : UNTIL).find(([text]) => text === value);
  if (preset) return preset[1];
  const [, count, unit] = value.match(/^-(\d+)([smhd])$/) ?? [];
  if (count) return `${count} ${UNITS[unit]}${count === '1' ? '' : 's'} ago`;
  const ms = Date.parse(value);
  return Number.isNaN(ms) ? value : moment(ms);
}

// Buttons that pick the speed of a replay.
export class Speeds {
  // `onPick(speed)`: a key of SPEEDS.
  constructor({ label, onPick }) {
    this.speed = null;
    this._buttons = Object.entries(SPEEDS).map(([speed, text]) =>
      h(
        'button',
        { type: 'button', class: 'segment', 'data-speed': speed, onclick: () => onPick(speed) },
        text,
      ),
    );
    this.element = h(
      'span',
      { class: 'segments', role: 'group', 'aria-label': label },
      ...this._buttons,
    );
  }

  show(speed, title = '') {
    this.speed = speed;
    for (const button of this._buttons) {
      button.setAttribute('aria-pressed', String(button.dataset.speed === speed));
      if (button.title !== title) button.title = title;
    }
  }
}

// A menu that picks `since` or `until`; `onPick(value)` is called with a value for the gateway.
// `more`: an element that stands above the choices.
export class TimePicker {
  constructor({ name, label, onPick, more = null }) {
    this._name = name;
    this._onPick = onPick;
    this._shown = h('span', { class: 'picked' });
    const presets = (name === 'since' ? SINCE : UNTIL).map(([value, text]) =>
      h(
        'button',
        {
          type: 'button',
          class: 'choice',
          onclick: () => this._pick(value),
        },
        text,
      ),
    );
    this._date = h('input', {
      type: 'datetime-local',
      step: '1',
      'aria-label': `${label}: a date and a time`,
    });
    const go = h('button', { type: 'button', onclick: () => this._pickDate() }, 'Use');
    this._date.addEventListener('keydown', (event) => {
      if (event.key === 'Enter') {
        event.preventDefault();
        this._pickDate();
      }
    });
    this.element = h(
      'details',
      { class: 'menu', id: name },
      h('summary', {}, h('span', { class: 'label' }, label), ' ', this._shown),
      h(
        'div',
        { class: 'panel' },
        more && h('div', { class: 'more' }, h('span', { class: 'label' }, 'Replay at'), more),
        ...presets,
        h(
          'div',
          { class: 'date' },
          h('span', { class: 'label' }, 'A date, in your time zone'),
          this._date,
          go,
        ),
      ),
    );
    closesByItself(this.element);
    this.show('');
  }

  show(value) {
    this._shown.textContent = inWords(this._name, value);
  }

  _pickDate() {
    const at = new Date(this._date.value);
    if (!Number.isNaN(at.getTime())) this._pick(at.toISOString().replace('.000Z', 'Z'));
  }

  _pick(value) {
    this.element.open = false;
    this.element.firstElementChild.focus();
    this.show(value);
    this._onPick(value);
  }
}

// Closes a menu on Escape and when something else is clicked or gets the focus.
function closesByItself(details) {
  details.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || !details.open) return;
    details.open = false;
    details.firstElementChild.focus();
  });
  addEventListener('pointerdown', ({ target }) => {
    if (!details.contains(target)) details.open = false;
  });
  details.addEventListener('focusout', ({ relatedTarget }) => {
    if (relatedTarget && !details.contains(relatedTarget)) details.open = false;
  });
}
