// The menu that opens at a value. It offers to show only events with this value, or without it.

import { copy as copyText, h } from './dom.js';
import { condition } from './request.js';

let shown = null;

// `onCondition(text)` is called with a CEL condition.
export function valueMenu(anchor, keys, value, onCondition) {
  close();
  const items = [
    ['Only this', true],
    ['Not this', false],
  ]
    .map(([label, isWanted]) => {
      const text = condition(keys, value, isWanted);
      return (
        text &&
        h(
          'button',
          {
            type: 'button',
            role: 'menuitem',
            onclick: () => {
              close();
              onCondition(text);
            },
          },
          h('span', {}, label),
          h('code', {}, text),
        )
      );
    })
    .filter(Boolean);
  const copy = h(
    'button',
    {
      type: 'button',
      role: 'menuitem',
      onclick: () => {
        copyText(String(value));
        close(true);
      },
    },
    'Copy the value',
  );
  const menu = h(
    'div',
    { class: 'popup', role: 'menu', 'aria-label': `Actions for ${keys.join('.')}` },
    ...items,
    copy,
  );
  menu.addEventListener('keydown', (event) => key(event, menu));
  document.querySelector('main').append(menu); // within a landmark
  const at = anchor.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, innerWidth - menu.offsetWidth - 8));
  const isLow = at.bottom + menu.offsetHeight + 8 > innerHeight;
  menu.style.left = `${left}px`;
  menu.style.top = `${isLow ? at.top - menu.offsetHeight - 4 : at.bottom + 4}px`;
  shown = { menu, anchor };
  menu.firstElementChild.focus();
}

function close(isBack = false) {
  if (!shown) return;
  const { menu, anchor } = shown;
  shown = null;
  menu.remove();
  if (isBack) anchor.focus();
}

function key(event, menu) {
  const items = [...menu.children];
  const at = items.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
  if (to !== undefined) {
    event.preventDefault();
    items[(to + items.length) % items.length].focus();
  } else if (event.key === 'Escape' || event.key === 'Tab') {
    event.preventDefault();
    close(true);
  }
}

addEventListener('pointerdown', ({ target }) => {
  if (shown && !shown.menu.contains(target)) close();
});
addEventListener('resize', () => close());
