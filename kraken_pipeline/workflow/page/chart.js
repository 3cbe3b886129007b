// Draws each chart: candles, volume, and a strip of what is known of the time; tells of a bar by pointer and keyboard.
(() => {
  const KEYS = "Point at a bar, or go there with the arrow keys. Enter, a click or a tap keeps it, Escape lets go.";
  const PLANES = ["time", "open", "high", "low", "close", "volume", "trades"];
  const FONT = "12px system-ui, sans-serif";
  const price = new Intl.NumberFormat("en", { maximumSignificantDigits: 10 });
  const amount = new Intl.NumberFormat("en", { maximumSignificantDigits: 8 });
  const day = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10);
  const minute = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");

  // Planes of Float64 by bar, then one of Uint8, the kinds of time; see chart.py.
  async function barsOf(text) {
    const buffer = await (await unpacked(text)).arrayBuffer();
    const count = buffer.byteLength / (8 * PLANES.length + 1);
    const bars = Object.fromEntries(
      PLANES.map((name, index) => [name, new Float64Array(buffer, 8 * count * index, count)]));
    return { ...bars, count, kind: new Uint8Array(buffer, 8 * count * PLANES.length, count) };
  }

  // The round numbers within a range, about four of them.
  function ticks(low, high) {
    const rough = (high - low) / 4 || Math.abs(high) / 4 || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
    const found = [];
    for (let index = Math.ceil(low / step); index * step <= high; index += 1) found.push(index * step);
    return found;
  }

  async function setUp(chart) {
    const plot = chart.querySelector(".plot");
    const canvas = chart.querySelector("canvas");
    const told = chart.querySelector(".bar");
    const kinds = [...chart.querySelectorAll(".legend li")].map((item) => (
      { name: item.querySelector("span").textContent, colour: item.querySelector("i").style.backgroundColor }));
    if (!("DecompressionStream" in window)) {
      told.textContent = "This browser cannot unpack the numbers of the chart.";
      return;
    }
    const bars = await barsOf(chart.querySelector("script").textContent);
    const known = bars.close.map((_, index) => index).filter((index) => !Number.isNaN(bars.close[index]));
    const least = known.reduce((value, index) => Math.min(value, bars.low[index]), Infinity);
    const most = known.reduce((value, index) => Math.max(value, bars.high[index]), -Infinity);
    const busiest = known.reduce((value, index) => Math.max(value, bars.volume[index]), 0);
    let place = null; // the bar under the cursor, once there is one
    let isPinned = false;
    let right = 1; // where the candles end and the prices begin, in pixels
    told.textContent = KEYS;
    // Screen readers leave the arrow keys to an application.
    plot.setAttribute("role", "application");
    plot.setAttribute("aria-roledescription", "chart");

    function draw() {
      const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, window.devicePixelRatio || 1];
      if (!width) return;
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      const style = getComputedStyle(plot);
      const colour = (name) => style.getPropertyValue(`--${name}`).trim();
      const pen = canvas.getContext("2d");
      pen.scale(ratio, ratio);
      pen.font = FONT;
      const prices = known.length ? ticks(least, most) : [];
      right = width - Math.max(40, ...prices.map((value) => pen.measureText(price.format(value)).width + 12));
      const bottom = height - 22;
      const strip = bottom - 14;
      const [volumeTop, volumeBottom] = [Math.round(strip * 0.76), strip - 6];
      const [top, base] = [10, volumeTop - 10];
      const step = right / bars.count;
      const left = (index) => index * step;
      const y = (value) => (most === least ? (top + base) / 2 : base - (value - least) / (most - least) * (base - top));

      pen.textBaseline = "middle";
      for (const value of prices) {
        pen.fillStyle = colour("line");
        pen.fillRect(0, Math.round(y(value)), right, 1);
        pen.fillStyle = colour("faint");
        pen.fillText(price.format(value), right + 6, y(value));
      }
      const body = Math.max(0.5, step * 0.7);
      for (const index of known) {
        pen.fillStyle = colour(bars.close[index] >= bars.open[index] ? "up" : "down");
        const middle = left(index) + step / 2;
        const wick = Math.min(1, body);
        pen.fillRect(middle - wick / 2, y(bars.high[index]), wick, Math.max(1, y(bars.low[index]) - y(bars.high[index])));
        const upper = y(Math.max(bars.open[index], bars.close[index]));
        const lower = y(Math.min(bars.open[index], bars.close[index]));
        pen.fillRect(middle - body / 2, upper, body, Math.max(1, lower - upper));
        const tall = busiest ? bars.volume[index] / busiest * (volumeBottom - volumeTop) : 0;
        pen.globalAlpha = 0.55;
        pen.fillRect(middle - body / 2, volumeBottom - tall, body, tall);
        pen.globalAlpha = 1;
      }
      for (let index = 0; index < bars.count; index += 1) {
        // From pixel to pixel, so that no ground shows between two bars.
        const [from, to] = [index, index + 1].map((each) => Math.round(left(each) * ratio) / ratio);
        pen.fillStyle = kinds[bars.kind[index]].colour;
        pen.fillRect(from, strip, to - from, 12);
        // Gaps are notched too, for those who do not see the colours.
        if (bars.kind[index] === 0) pen.clearRect(from, strip, to - from, 6);
      }
      pen.fillStyle = colour("faint");
      pen.textBaseline = "alphabetic";
      const labels = Math.max(1, Math.floor(right / 150));
      for (let label = 0; label < labels; label += 1) {
        const index = Math.floor(label * bars.count / labels);
        pen.fillText(day(bars.time[index]), left(index) + 2, height - 6);
        pen.fillRect(left(index), bottom, 1, 6);
      }
      if (place !== null) {
        pen.fillStyle = colour("text");
        pen.fillRect(left(place) + step / 2 - 0.5, 0, 1, bottom);
      }
    }

    function sentence(index) {
      const parts = [kinds[bars.kind[index]].name];
      if (!Number.isNaN(bars.close[index])) {
        const trades = bars.trades[index];
        parts.push(
          ...["open", "high", "low", "close"].map((name) => `${name} ${price.format(bars[name][index])}`),
          `volume ${amount.format(bars.volume[index])}`, `${amount.format(trades)} ${trades === 1 ? "trade" : "trades"}`);
      }
      return `${minute(bars.time[index])} UTC: ${parts.join(", ")}.`;
    }

    // What the pointer passes over is shown and not read out.
    function tell(index, isAloud) {
      place = index;
      told.setAttribute("aria-live", isAloud ? "polite" : "off");
      told.textContent = index === null ? KEYS : sentence(index) + (isPinned ? " Kept." : "");
      draw();
    }

    const within = (index) => Math.max(0, Math.min(bars.count - 1, index));
    function under(event) {
      const box = canvas.getBoundingClientRect();
      return within(Math.floor((event.clientX - box.left) / right * bars.count));
    }
    canvas.addEventListener("pointermove", (event) => {
      const index = under(event);
      if (!isPinned && event.pointerType === "mouse" && index !== place) tell(index, false);
    });
    canvas.addEventListener("click", (event) => {
      const index = under(event);
      isPinned = !(isPinned && index === place);
      tell(index, true);
    });
    const moves = {
      ArrowLeft: (index) => index - 1,
      ArrowRight: (index) => index + 1,
      PageUp: (index) => index - 10,
      PageDown: (index) => index + 10,
      Home: () => 0,
      End: () => bars.count - 1,
    };
    plot.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key === "Escape") {
        isPinned = false;
        tell(null, true);
      } else if ((event.key === "Enter" || event.key === " ") && place !== null) {
        isPinned = true;
        tell(place, true);
      } else if (event.key in moves) {
        isPinned = true;
        // The first key shows where the cursor is: at the newest bar.
        tell(place === null ? bars.count - 1 : within(moves[event.key](place)), true);
      } else return;
      event.preventDefault();
    });
    new ResizeObserver(draw).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    draw();
  }

  document.querySelectorAll(".chart").forEach(setUp);
})();
