// Completes names of fields in the filter: a combobox as the ARIA patterns describe it.

import { h } from './dom.js';
import { reference } from './request.js';

const SHOWN_MAX = 8;

export class Completion {
  // `input` has the role combobox and names `list` in aria-controls.
  constructor(input, list) {
    this._input = input;
    this._list = list;
    this._fields = [];
    this._at = -1;
    input.addEventListener('input', () => this._suggest());
    input.addEventListener('keydown', (event) => this._key(event));
    input.addEventListener('blur', () => this._close());
  }

  // `fields` as fieldsOf gives them.
  fields(fields) {
    this._fields = fields.flatMap(({ keys, types, description }) => {
      const text = reference(keys);
      return text === null ? [] : [{ text, types, description }];
    });
  }

  get isOpen() {
    return !this._list.hidden;
  }

  _suggest() {
    const word = this._word();
    const wanted = word.replace(/^event\.?/, '').toLowerCase();
    const fits =
      word && !this._isInText()
        ? this._fields.filter(
            ({ text }) =>
              text !== word && text.slice('event.'.length).toLowerCase().includes(wanted),
          )
        : [];
    const rank = ({ text }) =>
      (text.toLowerCase().startsWith(`event.${wanted}`) ? 0 : 1) + text.split('.').length / 100;
    const shown = fits.sort((a, b) => rank(a) - rank(b)).slice(0, SHOWN_MAX);
    if (!shown.length) {
      this._close();
      return;
    }
    this._list.replaceChildren(
      ...shown.map(({ text, types, description }, i) =>
        h(
          'li',
          {
            role: 'option',
            id: `field-${i}`,
            'aria-selected': 'false',
            onpointerdown: (event) => {
              event.preventDefault();
              this._accept(text);
            },
          },
          h('code', {}, text),
          ' ',
          h('span', { class: 'type' }, types.join(' or ')),
          h('span', { class: 'muted' }, ` ${description}`),
        ),
      ),
    );
    this._shown = shown;
    this._list.hidden = false;
    this._input.setAttribute('aria-expanded', 'true');
    this._select(0);
  }

  _word() {
    const before = this._input.value.slice(0, this._input.selectionStart);
    return before.match(/[A-Za-z_][\w.]*$/)?.[0] ?? '';
  }

  // Whether the caret is within a string literal.
  _isInText() {
    const before = this._input.value.slice(0, this._input.selectionStart);
    const rest = before.replace(/\\./g, '').replace(/'[^']*'|"[^"]*"/g, '');
    return /['"]/.test(rest);
  }

  _select(at) {
    this._at = (at + this._shown.length) % this._shown.length;
    [...this._list.children].forEach((option, i) =>
      option.setAttribute('aria-selected', String(i === this._at)),
    );
    this._input.setAttribute('aria-activedescendant', `field-${this._at}`);
  }

  _key(event) {
    if (!this.isOpen) return;
    if (event.key === 'ArrowDown') this._select(this._at + 1);
    else if (event.key === 'ArrowUp') this._select(this._at - 1);
    else if (event.key === 'Enter' || event.key === 'Tab') this._accept(this._shown[this._at].text);
    else if (event.key === 'Escape') this._close();
    else return;
    event.preventDefault();
  }

  _accept(text) {
    const { selectionStart: caret, value } = this._input;
    const begin = caret - this._word().length;
    this._input.value = value.slice(0, begin) + text + value.slice(caret);
    this._input.setSelectionRange(begin + text.length, begin + text.length);
    this._close();
    this._input.dispatchEvent(new Event('completed', { bubbles: true }));
  }

  _close() {
    this._list.hidden = true;
    this._input.setAttribute('aria-expanded', 'false');
    this._input.removeAttribute('aria-activedescendant');
  }
}
