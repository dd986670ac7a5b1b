// Draws two small charts: a line of counts, and the rate of the last minute.

import { h, svg } from './dom.js';

// A line of counts, the newest at the right; null where there is nothing to draw.
export function sparkline(counts, label) {
  const most = Math.max(...counts);
  if (counts.length < 2 || most <= 0) return null;
  const [width, height] = [64, 18];
  const points = counts.map(
    (count, i) =>
      `${((i * width) / (counts.length - 1)).toFixed(1)},${(height - 1 - (count / most) * (height - 2)).toFixed(1)}`,
  );
  return svg(
    'svg',
    { class: 'sparkline', viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label },
    svg('polygon', { points: `0,${height} ${points.join(' ')} ${width},${height}` }),
    svg('polyline', { points: points.join(' '), fill: 'none' }),
  );
}

export class RateChart {
  constructor(live) {
    this._live = live;
    this._area = svg('path', { class: 'area' });
    this._line = svg('path', { class: 'line', fill: 'none' });
    this._svg = svg(
      'svg',
      { viewBox: '0 0 300 60', preserveAspectRatio: 'none', 'aria-hidden': 'true' },
      this._area,
      this._line,
    );
    this._now = h('strong', {}, '–');
    this._most = h('span', { class: 'muted' });
    this.element = h(
      'figure',
      { class: 'rate' },
      h('figcaption', {}, this._now, h('span', {}, ' events/s'), this._most),
      this._svg,
    );
    setInterval(() => this._draw(), 1000);
  }

  _draw() {
    const counts = this._live.perSecond();
    const most = Math.max(1, ...counts);
    const points = counts.map(
      (count, i) =>
        `${((i * 300) / (counts.length - 1)).toFixed(1)} ${(59 - (count / most) * 56).toFixed(1)}`,
    );
    this._line.setAttribute('d', `M${points.join(' L')}`);
    this._area.setAttribute('d', `M0 60 L${points.join(' L')} L300 60 Z`);
    // The second in which counting began, and the present one, are not complete.
    const complete = Math.min(5, this._live.rateS - 1);
    if (complete < 1) {
      this._now.textContent = '–';
      this._most.textContent = '';
      return;
    }
    const rate = counts.slice(-complete).reduce((sum, count) => sum + count, 0) / complete;
    this._now.textContent = rate.toLocaleString('en', { maximumFractionDigits: rate < 10 ? 1 : 0 });
    const peak = Math.max(...counts).toLocaleString('en');
    this._most.textContent = `peak ${peak}/s in the last minute`;
  }
}
