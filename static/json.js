// Shows a JSON document: folded, highlighted, each value a button that offers conditions for it.

import { h } from './dom.js';

const OPEN_DEPTH = 2;
const OPEN_ENTRIES = 30; // larger parts are folded
const ENTRIES_MAX = 500; // of one list or object; the rest is counted

// Numbers beyond 2^53 keep their digits where the browser lets us see them.
export function parse(text) {
  return JSON.parse(text, (key, value, context) => {
    const source = context?.source;
    const isInexact = typeof value === 'number' && !Number.isSafeInteger(value);
    return isInexact && source && /^-?\d+$/.test(source) ? BigInt(source) : value;
  });
}

// The same document as text, with every digit.
export function print(document) {
  const exact = (key, value) => (typeof value === 'bigint' ? JSON.rawJSON(String(value)) : value);
  return JSON.stringify(document, exact, 2);
}

// `onValue(button, keys, value)` is called when a value is chosen.
export function tree(document, onValue) {
  return h('div', { class: 'json' }, ...node(document, [], onValue, []));
}

// The elements of a value; `name`: what stands before it on its line.
function node(value, keys, onValue, name) {
  if (value === null || typeof value !== 'object') return [...name, scalar(value, keys, onValue)];
  const isList = Array.isArray(value);
  const entries = Object.entries(value);
  const [begin, end] = isList ? '[]' : '{}';
  if (!entries.length) return [...name, begin + end];
  const shown = entries
    .slice(0, ENTRIES_MAX)
    .map(([key, inner]) =>
      h(
        'li',
        {},
        ...node(
          inner,
          [...keys, isList ? Number(key) : key],
          onValue,
          isList ? [] : [h('span', { class: 'key' }, key), ': '],
        ),
      ),
    );
  if (entries.length > shown.length) {
    shown.push(h('li', { class: 'muted' }, `… and ${entries.length - shown.length} more`));
  }
  const isOpen =
    keys.length < OPEN_DEPTH && entries.length <= OPEN_ENTRIES + (keys.length ? 0 : 60);
  const what = isList ? 'item' : 'field';
  const size = `${entries.length} ${what}${entries.length === 1 ? '' : 's'}`;
  return [
    h(
      'details',
      { open: isOpen },
      h('summary', {}, ...name, begin, h('span', { class: 'folded muted' }, ` ${size} ${end}`)),
      h('ul', {}, ...shown),
      end,
    ),
  ];
}

function scalar(value, keys, onValue) {
  const kind = value === null ? 'null' : typeof value;
  const text = kind === 'string' ? JSON.stringify(value) : String(value);
  if (!onValue) return h('span', { class: `value ${kind}` }, text);
  const button = h('button', { type: 'button', class: `value ${kind}` }, text);
  button.addEventListener('click', () => onValue(button, keys, value));
  return button;
}
