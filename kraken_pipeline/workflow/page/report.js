// The maps tell what each of their cells is made of: under the pointer, by click or tap, and by keyboard.
"use strict";
// What lies in the page gzipped, in base64.
async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream);
}

(() => {
  const ROUTES = ["an archive at hand", "finer candles", "OHLC", "Trades", "no route"];
  const MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December"];
  const number = new Intl.NumberFormat("en");
  // The rows of a long table that follow its first ones lie in the page gzipped, as HTML.
  document.querySelectorAll("details.table").forEach((table) => {
    const packed = table.querySelector("script");
    if (!packed) return;
    const unpack = async () => {
      table.removeEventListener("toggle", unpack);
      const rows = await (await unpacked(packed.textContent)).text();
      table.querySelector("tbody").insertAdjacentHTML("beforeend", rows);
    };
    table.addEventListener("toggle", unpack);
  });

  const maps = document.querySelector(".maps");
  if (!maps) return;
  const first = Number(maps.dataset.first);
  const months = Number(maps.dataset.months);

  // The numbers lie in the page gzipped, as planes of Int32 by pair and month; see heat_map.py.
  async function numbersOf(text, size) {
    const data = new Int32Array(await (await unpacked(text)).arrayBuffer());
    const candles = data.subarray(5 * size, 6 * size);
    const bytes = new Uint8Array(candles.slice().buffer);
    for (let at = 0; at < size; at += 1) {
      candles[at] = bytes[at] | bytes[size + at] << 8 | bytes[2 * size + at] << 16 | bytes[3 * size + at] << 24;
    }
    return data;
  }

  function setUp(panel) {
    const map = panel.querySelector(".scroll");
    const picture = panel.querySelector(".picture");
    const cursor = panel.querySelector(".cursor");
    const told = panel.querySelector(".told");
    const keys = panel.querySelector(".keys");
    const pairs = [...panel.querySelectorAll(".pairs li")];
    const tiers = [];
    pairs.forEach((pair, row) => tiers.push(pair.dataset.tier ?? tiers[row - 1]));
    const names = [...panel.querySelectorAll(".legend li")].map((item) => item.querySelector("span").textContent);
    const size = pairs.length * months;
    let cells = null;
    let place = null; // where the cursor is, once there is one
    let isPinned = false;

    if (!("DecompressionStream" in window)) {
      keys.textContent = "This browser cannot unpack the numbers of the map; the tables below have them.";
      return;
    }
    keys.textContent = "Point at a month, or go there with the arrow keys. Enter, a click or a tap keeps it, Escape lets go.";
    // Screen readers leave the arrow keys to an application.
    map.setAttribute("role", "application");
    map.setAttribute("aria-roledescription", "map");

    function loaded() {
      cells ??= numbersOf(panel.querySelector("script").textContent, size);
      return cells;
    }

    function sentence(data, { row, column }) {
      const at = row * months + column;
      const plane = (index) => data[index * size + at];
      const of = (count, one, many) => `${number.format(count)} ${count === 1 ? one : many}`;
      const month = first + column;
      const pair = pairs[row];
      const head = `${pair.textContent}, ${panel.dataset.interval}, ${MONTHS[month % 12]} ${Math.floor(month / 12)}`;
      const expected = plane(1);
      if (!expected) return `${head}: ${names[plane(0)]}.`;
      const uncovered = ROUTES.reduce((sum, _, index) => sum + plane(6 + index), plane(2));
      const covered = expected - uncovered;
      const reconciled = covered - plane(3);
      const candles = plane(5) - 1;
      const parts = [`${number.format(covered)} of ${of(expected, "candle", "candles")} covered`];
      if (covered) {
        parts.push(`${number.format(reconciled)} reconciled, ${number.format(reconciled - plane(4))} of them verified`);
        parts.push(candles < 0 ? "candles not counted yet"
          : `${number.format(candles)} traded, ${number.format(covered - candles)} quiet`);
      }
      const missing = ROUTES.map((route, index) => [plane(6 + index), route]).filter(([count]) => count)
        .map(([count, route]) => `${number.format(count)} by ${route}`.replace("by no route", "without a route"));
      if (missing.length) parts.push(`missing ${missing.join(", ")}`);
      const conflicts = plane(6 + ROUTES.length);
      if (conflicts) parts.push(of(conflicts, "conflict", "conflicts"));
      const suspicious = plane(7 + ROUTES.length);
      if (suspicious) parts.push(`${number.format(suspicious)} in quiet time that is hard to believe`);
      return `${head} (${tiers[row]}): ${names[plane(0)]}. ${parts.join("; ")}.`;
    }

    // What the pointer passes over is shown and not read out.
    async function tell(where, isAloud) {
      place = where;
      const data = await loaded();
      if (place !== where) return;
      told.setAttribute("aria-live", isAloud ? "polite" : "off");
      told.textContent = sentence(data, where) + (isPinned ? " Kept." : "");
      cursor.hidden = false;
      cursor.style.setProperty("--x", where.column);
      cursor.style.setProperty("--y", where.row);
      pairs.forEach((pair, row) => pair.classList.toggle("here", row === where.row));
    }

    function under(event) {
      const box = picture.getBoundingClientRect();
      const column = Math.floor((event.clientX - box.left) / box.width * months);
      const row = Math.floor((event.clientY - box.top) / box.height * pairs.length);
      const isInside = column >= 0 && column < months && row >= 0 && row < pairs.length;
      return isInside ? { row, column } : null;
    }
    const isSame = (one, other) => Boolean(one && other && one.row === other.row && one.column === other.column);

    picture.addEventListener("pointermove", (event) => {
      const where = under(event);
      if (where && !isPinned && event.pointerType === "mouse" && !isSame(where, place)) tell(where, false);
    });
    picture.addEventListener("click", (event) => {
      const where = under(event);
      if (!where) return;
      isPinned = !(isPinned && isSame(where, place));
      tell(where, true);
    });

    const moves = {
      ArrowLeft: ({ row, column }) => ({ row, column: column - 1 }),
      ArrowRight: ({ row, column }) => ({ row, column: column + 1 }),
      ArrowUp: ({ row, column }) => ({ row: row - 1, column }),
      ArrowDown: ({ row, column }) => ({ row: row + 1, column }),
      PageUp: ({ row, column }) => ({ row: row - 10, column }),
      PageDown: ({ row, column }) => ({ row: row + 10, column }),
      Home: ({ row }) => ({ row, column: 0 }),
      End: ({ row }) => ({ row, column: months - 1 }),
    };
    const within = (value, count) => Math.max(0, Math.min(count - 1, value));

    map.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key === "Escape" || event.key === "Enter" || event.key === " ") {
        if (!place) return;
        isPinned = event.key !== "Escape";
        tell({ ...place }, true);
      } else if (event.key in moves) {
        // The first key shows where the cursor is: at the newest month of the first pair.
        const next = place ? moves[event.key](place) : { row: 0, column: months - 1 };
        const where = { row: within(next.row, pairs.length), column: within(next.column, months) };
        isPinned = true;
        tell(where, true);
        show(where);
      } else return;
      event.preventDefault();
    });

    // Brings a cell out from under the names of pairs and years.
    function show({ row, column }) {
      const [left, top] = [picture.offsetLeft, picture.offsetTop];
      const [width, height] = [picture.offsetWidth / months, picture.offsetHeight / pairs.length];
      const [x, y] = [column * width, row * height];
      if (x < map.scrollLeft) map.scrollLeft = x - width;
      else if (left + x + width > map.scrollLeft + map.clientWidth) map.scrollLeft = left + x + 2 * width - map.clientWidth;
      if (y < map.scrollTop) map.scrollTop = y - height;
      else if (top + y + height > map.scrollTop + map.clientHeight) map.scrollTop = top + y + 2 * height - map.clientHeight;
    }

    // The newest months matter most, and a narrow screen would show the oldest; a year's name stays beside the pairs'.
    const toNewest = () => {
      picture.parentElement.style.setProperty("--names", `${picture.offsetLeft}px`);
      map.scrollLeft = map.scrollWidth;
    };
    toNewest();
    panel.previousElementSibling.previousElementSibling.addEventListener("change", toNewest);
  }

  document.querySelectorAll(".panel").forEach(setUp);
})();
