// Builds elements from text and values, never from markup: no part of an event becomes HTML.

// h('a', { class: 'x', onclick: f, 'aria-label': 'y' }, 'text', child): an element.
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  const isThere = (child) => child !== false && child !== null && child !== undefined;
  element.append(...children.flat().filter(isThere));
  return element;
}

const SVG = 'http://www.w3.org/2000/svg';

// svg('path', { d }): an element of a drawing.
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
}

export const byId = (id) => document.getElementById(id);

const NOWHERE = /(^|\.)(example|invalid|test)$/; // hosts that do not exist, by RFC 2606

// A link that leaves the page, or plain text if the address leads nowhere in the web.
export function link(address, text) {
  if (!isWeb(address)) return h('span', {}, text);
  return h('a', { href: address, target: '_blank', rel: 'noopener noreferrer' }, text);
}

export function isWeb(address) {
  if (typeof address !== 'string') return false;
  try {
    const { protocol, hostname } = new URL(address);
    return ['http:', 'https:'].includes(protocol) && !NOWHERE.test(hostname);
  } catch {
    return false;
  }
}

// "1 event", "1,250 events".
export function counted(count, noun) {
  return `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`;
}

// Copies text, and confirms that on the button.
export function copyButton(label, text) {
  const button = h('button', { type: 'button', class: 'quiet' }, label);
  button.addEventListener('click', async () => {
    await copy(text());
    button.textContent = 'Copied';
    setTimeout(() => {
      button.textContent = label;
    }, 1500);
  });
  return button;
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // pages over plain HTTP have no clipboard
    const area = h('textarea', { class: 'offscreen', 'aria-hidden': 'true' });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
}
