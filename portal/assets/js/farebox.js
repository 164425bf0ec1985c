/* Farebox. Pages work without this; it copies, confirms in place, sorts, and draws charts.
   A chart has no data of its own: it reads the <table> in its <figure>.
   <figure data-chart="cumulative|stacked|bars|lines"> <div class="plot"></div> <details><table>
   th[data-c] = colour 1-6, th[data-as=tick] = draw as a tick on the bar, th[data-as=skip] = leave out,
   tr[data-now] = not finished (hatched), figure[data-cap] = allowance, [data-unit=$].
   Under the pages' content security policy nothing may be styled by attribute: tooltips are built as nodes. */
(() => {
  const root = document.documentElement;
  root.classList.add('js');
  const $$ = (s, e = document) => [...e.querySelectorAll(s)];

  if (!('command' in HTMLButtonElement.prototype)) document.addEventListener('click', e => { // browsers before 2025
    const c = e.target.closest('[commandfor]');
    if (c) document.getElementById(c.getAttribute('commandfor'))[c.getAttribute('command') === 'close' ? 'close' : 'showModal']();
  });

  document.addEventListener('click', async e => {
    const b = e.target.closest('[data-copy]');
    if (!b) return;
    const t = b.querySelector('span'), was = 'Copy';
    try {
      await navigator.clipboard.writeText(b.parentElement.querySelector('pre').innerText.trim());
      t.textContent = 'Copied';
    } catch { // no clipboard (plain http): select it, so that the keyboard copies
      getSelection().selectAllChildren(b.parentElement.querySelector('pre'));
      t.textContent = 'Press Ctrl+C';
    }
    setTimeout(() => t.textContent = was, 2500);
  });

  // A form sends once: a second click while it is on its way does nothing.
  document.addEventListener('submit', e => {
    if (e.target.method !== 'post' || e.defaultPrevented || e.submitter?.formAction.endsWith('.csv')) return; // a file leaves the page where it is
    if (e.target.dataset.sent) return e.preventDefault();
    e.target.dataset.sent = '1';
  });
  addEventListener('pageshow', () => $$('form[data-sent]').forEach(f => delete f.dataset.sent));

  // A page whose only point is one link follows it.
  document.querySelector('a[data-go]')?.click();

  // Filters apply as soon as they change; the button is for those without script.
  document.addEventListener('change', e => { if (e.target.matches('form[data-auto] select, form[data-auto] input')) e.target.form.requestSubmit(); });

  // A file's text into the field beside it.
  document.addEventListener('change', async e => {
    const field = document.getElementById(e.target.dataset.into), file = e.target.files?.[0];
    if (field && file) field.value = await file.text();
  });

  // Polling stops while nobody looks.
  document.addEventListener('htmx:beforeRequest', e => {
    if (document.hidden && (e.target.getAttribute('hx-trigger') || '').startsWith('every')) e.preventDefault();
  });

  // What is [data-live] renews itself: charts draw the new table, other parts are replaced when they say something else.
  const drawing = new WeakMap();
  async function renew() {
    const live = $$('[data-live][id]');
    if (document.hidden || !live.length) return;
    const answer = await fetch(location.href, { headers: { accept: 'text/html' } });
    if (!answer.ok || answer.redirected) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
    for (const now of live) {
      const next = fresh.getElementById(now.id);
      if (!next || next.textContent === now.textContent || now.contains(document.activeElement)) continue;
      const draw = drawing.get(now);
      if (!draw || !next.querySelector('.plot')) {
        now.replaceWith(document.adoptNode(next));
        charts(document.body);
        continue;
      }
      for (const part of ['figcaption > p', 'table']) now.querySelector(part).replaceWith(document.adoptNode(next.querySelector(part)));
      draw();
    }
  }
  // The next time is counted from the end of this one, so that a slow page is not asked for while it is made.
  const every = Math.max(0, ...$$('[data-live]').map(e => +e.dataset.live || 5)) * 1000;
  const again = () => setTimeout(() => renew().catch(() => {}).finally(again), every);
  if (every) again();

  // Tables sort by any column: th[data-sort], the row's original order is kept for ties.
  const plain = s => +s.replace(/\u2212/g, '-').replace(/[^\d.-]/g, '');
  const sortable = scope => $$('table[data-sortable] thead th', scope).forEach((th, i) => {
    if (th.querySelector('.vh, button')) return;
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = th.textContent;
    th.replaceChildren(button);
    th.dataset.sort = '';
    button.addEventListener('click', () => {
      const table = th.closest('table'), body = table.tBodies[0], down = th.getAttribute('aria-sort') !== 'descending';
      $$('th[aria-sort]', table).forEach(x => x.removeAttribute('aria-sort'));
      th.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      // By the first line: what stands below it only explains.
      const text = r => (r.cells[i].querySelector('.cell')?.firstChild ?? r.cells[i]).textContent.trim(), numeric = th.classList.contains('n');
      const order = numeric ? (a, b) => plain(text(a)) - plain(text(b)) : (a, b) => text(a).localeCompare(text(b));
      body.append(...[...body.rows].sort((a, b) => down ? order(b, a) : order(a, b)));
    });
  });

  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  const probe = document.body.appendChild(document.createElement('i'));
  probe.hidden = true;
  const role = n => (probe.style.color = `var(--${n})`, getComputedStyle(probe).color);
  const num = s => /\d/.test(s) ? plain(s) : null;
  const short = v => Math.abs(v) >= 1e6 ? +(v / 1e6).toFixed(1) + 'M' : Math.abs(v) >= 1e3 ? +(v / 1e3).toFixed(1) + 'k' : +v.toFixed(2);
  const say = (v, unit) => v == null ? '–' : (v < 0 ? '\u2212' : '') + unit + Math.abs(v).toLocaleString('en-GB');
  const decal = color => ({ symbol: 'rect', symbolSize: 1, color, dashArrayX: [1, 0], dashArrayY: [1.5, 4.5], rotation: -Math.PI / 4 });

  function read(fig) {
    const t = fig.querySelector('table'), rows = $$('tbody tr', t);
    const cols = $$('thead th', t).slice(1).map((th, i) => ({
      name: th.textContent.trim(), as: th.dataset.as || 'bar', color: role('c' + (th.dataset.c || i + 1)),
      data: rows.map(r => num(r.cells[i + 1].textContent)),
    })).filter(c => c.as !== 'skip');
    return { cols, x: rows.map(r => r.cells[0].textContent.trim()), now: rows.map(r => 'now' in r.dataset) };
  }

  function tip(title, lines, unit) {
    const box = document.createElement('div'), head = box.appendChild(document.createElement('b'));
    box.className = 'tip';
    head.textContent = title;
    for (const { name, value, color } of lines) {
      const row = box.appendChild(document.createElement('div')), label = row.appendChild(document.createElement('span'));
      const dot = label.appendChild(document.createElement('i'));
      dot.style.background = color;
      label.append(name);
      row.appendChild(document.createElement('span')).textContent = say(value, unit);
    }
    return box;
  }

  function option(fig) {
    const { cols, x, now } = read(fig), kind = fig.dataset.chart, unit = fig.dataset.unit || '';
    const ink = role('ink'), ink2 = role('ink-2'), line = role('line'), surface = role('surface');
    const text = { color: ink2, fontFamily: getComputedStyle(document.body).fontFamily, fontSize: 12 };
    const value = { type: 'value', minInterval: unit ? 0 : 1, axisLabel: { ...text, formatter: v => (v < 0 ? '\u2212' : '') + unit + short(Math.abs(v)) }, splitLine: { lineStyle: { color: line } }, splitNumber: 4 };
    const cat = { type: 'category', data: x, axisTick: { show: false }, axisLine: { lineStyle: { color: role('edge') } }, axisLabel: { ...text, hideOverlap: true } };
    const o = {
      animation: !still && !fig.dataset.drawn, animationDuration: 300, textStyle: text, grid: { left: 4, right: 8, top: 12, bottom: 4, containLabel: true },
      tooltip: { trigger: 'axis', confine: true, backgroundColor: role('raised'), borderColor: line, textStyle: { ...text, color: ink }, axisPointer: { type: 'line', lineStyle: { color: role('edge') } },
        formatter: ps => { const i = [ps].flat()[0].dataIndex; return tip(x[i], cols.filter(c => c.data[i] != null).map(c => ({ name: c.name, value: c.data[i], color: c.color })), unit); } },
      xAxis: cat, yAxis: value,
    };
    const legend = () => { if (cols.length > 1) { o.legend = { left: 0, top: 0, itemWidth: 12, itemHeight: 8, itemGap: 16, textStyle: text, icon: 'rect' }; o.grid.top = 14 + 22 * Math.ceil(cols.reduce((sum, c) => sum + 36 + 6.5 * c.name.length, 0) / fig.clientWidth); } };
    if (kind === 'bars') {
      Object.assign(o, { xAxis: { ...value, splitNumber: 3 }, yAxis: { ...cat, inverse: true, axisLine: { show: false }, axisLabel: { ...text, color: ink, width: fig.clientWidth < 440 ? 120 : 220, overflow: 'truncate' } } });
      o.grid.right = 60;
      o.series = [{ type: 'bar', name: cols[0].name, data: cols[0].data, barMaxWidth: 18, itemStyle: { color: cols[0].color }, label: { show: true, position: 'right', ...text, formatter: p => say(p.value, unit) } }];
    } else if (kind === 'stacked') {
      legend();
      o.series = cols.map(c => c.as === 'tick'
        ? { type: 'scatter', name: c.name, data: c.data, symbol: 'rect', symbolSize: [fig.clientWidth > 520 ? 20 : 9, 4], z: 5, color: ink, itemStyle: { borderColor: surface, borderWidth: 1 } } // a tick, like a mark on a scale
        : { type: 'bar', stack: 's', name: c.name, barMaxWidth: 28, barCategoryGap: '28%', color: c.color,
            data: c.data.map((v, i) => now[i] ? { value: v, itemStyle: { color: surface, borderColor: c.color, borderWidth: 1, decal: decal(c.color) } } : v) });
    } else if (kind === 'lines') {
      legend();
      o.series = cols.map(c => ({ type: 'line', name: c.name, data: c.data, symbol: 'circle', symbolSize: 5, color: c.color, lineStyle: { width: 2 } }));
    } else {
      const cap = +fig.dataset.cap || 0, [me, last, lo, hi] = cols, wide = fig.clientWidth > 520;
      const end = (label, color, d) => ({ show: wide, formatter: label, color, distance: 6, ...text, ...d });
      o.grid.right = wide ? 92 : 12;
      o.yAxis.splitNumber = 7;
      const top = Math.max(0, ...me.data, ...(last ? last.data : []), ...(hi ? hi.data : []));
      const capShown = cap && cap < top * 4; // a far allowance would flatten the line it is there for
      if (capShown && cap > top) o.yAxis.max = cap * 1.1;
      o.series = [
        { type: 'bar', name: 'Today, in progress', data: me.data.map((v, i) => now[i] ? v : null), barWidth: '86%', tooltip: { show: false }, itemStyle: { color: 'transparent', opacity: .55, decal: decal(me.color) } },
        { type: 'line', name: me.name, data: me.data, symbol: (v, p) => now[p.dataIndex] ? 'circle' : 'none', symbolSize: 7, showAllSymbol: true, color: me.color, lineStyle: { width: 2.5 }, z: 5,
          markLine: capShown ? { silent: true, symbol: 'none', data: [{ yAxis: cap }], lineStyle: { color: ink, width: 1.5, type: 'solid' }, label: { position: 'insideStartTop', ...text, color: ink, formatter: 'Allowance ' + cap.toLocaleString('en-GB') } } : undefined },
      ];
      if (last) o.series.unshift({ type: 'line', name: last.name, data: last.data, symbol: 'none', color: last.color, lineStyle: { width: 1.5, type: [4, 3] }, endLabel: end(last.name, last.color, { offset: [0, 10] }) });
      if (lo && hi) o.series.push(
        { type: 'line', name: lo.name, data: lo.data, symbol: 'none', stack: 'f', color: me.color, lineStyle: { width: 1, type: 'dotted' } },
        { type: 'line', name: hi.name, data: hi.data.map((v, i) => v == null ? null : { value: v - lo.data[i] }), symbol: 'none', stack: 'f', color: me.color, lineStyle: { width: 1, type: 'dotted' }, areaStyle: { opacity: .16 }, endLabel: end('Forecast', me.color) });
    }
    return o;
  }

  function failed(fig) {
    fig.querySelector('.plot').hidden = true;
    fig.querySelector('.plot-error').hidden = false;
    fig.querySelector('details').open = true;
  }

  function charts(scope) {
    for (const fig of $$('[data-chart]', scope)) {
      const plot = fig.querySelector('.plot:empty');
      if (!plot) continue;
      if (!window.echarts) { failed(fig); continue; }
      try {
        const inner = plot.appendChild(document.createElement('div'));
        inner.style.height = '100%';
        const chart = echarts.init(inner), draw = () => { if (inner.isConnected) chart.setOption(option(fig), true); };
        draw();
        fig.dataset.drawn = '1';
        drawing.set(fig, draw);
        new ResizeObserver(() => { if (inner.isConnected) { chart.resize(); draw(); } else chart.dispose(); }).observe(plot);
        matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
        document.fonts?.ready.then(draw);
      } catch { failed(fig); }
    }
  }

  charts(document.body);
  sortable(document);
})();
