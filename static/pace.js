// Replays events at the pace at which they happened, or a multiple of it.

export class Pace {
  // `speed`: 1, 10 or 'full'.
  constructor(speed) {
    this._speed = speed;
    this._base = null; // { at: wall clock, ms: time of the events }
    this._wake = null;
    this._isPaused = false;
    this._hasEnded = false;
    this.ms = null; // the time of the newest event that was let through
  }

  speed(speed) {
    this._rebase();
    this._speed = speed;
    this._wake?.();
  }

  // Stops the clock of the replay, or lets it continue from where it stood.
  pause(isPaused) {
    if (isPaused === this._isPaused) return;
    this._rebase();
    this._isPaused = isPaused;
    this._wake?.();
  }

  // Waits until an event of this time is due; `ms` may be null.
  async until(ms) {
    while (!this._hasEnded) {
      const left = this._isPaused ? Infinity : this._left(ms);
      if (left <= 0) break;
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, Math.min(left, 2 ** 30));
        this._wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this._wake = null;
    }
    if (ms !== null) this.ms = Math.max(this.ms ?? 0, ms);
  }

  // Lets everything pass, so that whoever waits can end.
  end() {
    this._hasEnded = true;
    this._wake?.();
  }

  // How many milliseconds remain until an event of this time is due.
  _left(ms) {
    if (this._speed === 'full' || ms === null) return 0;
    this._base ??= { at: performance.now(), ms };
    return this._base.at + (ms - this._base.ms) / Number(this._speed) - performance.now();
  }

  // Counts from now on, and from the time that the replay has reached.
  _rebase() {
    const at = performance.now();
    if (this._speed === 'full') this._base = this.ms === null ? null : { at, ms: this.ms };
    else if (this._base) {
      const passed = this._isPaused ? 0 : (at - this._base.at) * Number(this._speed);
      this._base = { at, ms: this._base.ms + passed };
    }
  }
}
