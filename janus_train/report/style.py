"""The report's style sheet: one column that grows with the screen, light and dark, the three data kinds in three hues."""

STYLE = """
:root { --paper: #fbfaf8; --card: #ffffff; --ink: #1d2126; --soft: #626a73; --edge: #e3e0da; --track: #ece9e3;
  --understanding: #2b6cd4; --text: #c07a10; --generation: #0c8f72; --plain: #59636e;
  --yes: #0c7a4f; --yes-back: #e0f3ea; --no: #b0372e; --no-back: #fbe7e4; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --card: #1c2025; --ink: #e7e9ec; --soft: #98a1ab;
  --edge: #2d333a; --track: #2a3037; --understanding: #6ea8ff; --text: #eab04f; --generation: #3fcfa8; --plain: #aab4bf;
  --yes: #5fd6a2; --yes-back: #143528; --no: #ff8f84; --no-back: #3d1f1d; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
header, main, footer { max-width: 1180px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 36px; }
h1 { font-size: clamp(1.6rem, 5vw, 2.3rem); line-height: 1.15; margin: 0 0 6px; letter-spacing: -0.015em; }
header p, footer, .lead { color: var(--soft); }
header p { margin: 0; }
nav { display: flex; gap: 4px 18px; flex-wrap: wrap; margin-top: 16px; padding-bottom: 14px; border-bottom: 1px solid var(--edge); }
nav a { color: var(--understanding); text-decoration: none; }
nav a:hover { text-decoration: underline; }
section { padding-top: 28px; }
h2 { font-size: 1.4rem; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 small { display: block; font-size: 0.95rem; font-weight: 400; color: var(--soft); letter-spacing: 0; }
h3 { font-size: 1.02rem; margin: 22px 0 8px; }
.lead { margin: 2px 0 14px; max-width: 78ch; }
footer { padding-top: 40px; padding-bottom: 40px; font-size: 0.9rem; }
small { color: var(--soft); font-size: 0.82rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 0.85rem; padding: 6px 10px; white-space: nowrap; }
td { padding: 8px 10px; border-top: 1px solid var(--edge); vertical-align: middle; white-space: nowrap; }
td.name, th:first-child { padding-left: 0; }
td.name { white-space: normal; }
.scroll { overflow-x: auto; }
.results td.name { width: 26%; }
.results td.graph { width: 24%; min-width: 120px; }
.parts { width: auto; min-width: min(100%, 560px); }
.parts td:nth-child(2), .parts th:nth-child(2) { text-align: right; padding-right: 24px; }
.total td { font-weight: 600; }
.manifest td { white-space: normal; overflow-wrap: anywhere; font-size: 0.88rem; }
.bar { position: relative; height: 12px; border-radius: 6px; background: var(--track); }
.bar i { position: absolute; top: 0; bottom: 0; }
.bar .fill { left: 0; border-radius: 6px; background: var(--generation); }
.bar .span { top: 5px; bottom: 5px; background: var(--ink); opacity: 0.55; }
.bar .mark { top: -4px; bottom: -4px; width: 2px; margin-left: -1px; background: var(--ink); }
.chip { display: inline-block; padding: 0 8px; border-radius: 9px; font-size: 0.78rem; line-height: 1.5; white-space: nowrap;
  background: var(--track); color: var(--soft); }
.chip.yes { background: var(--yes-back); color: var(--yes); }
.chip.no { background: var(--no-back); color: var(--no); }
figure { margin: 0; }
img { display: block; max-width: 100%; }
.none { color: var(--soft); font-size: 0.88rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 16px; }
.drawn, .answer, .chart { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; overflow: hidden; }
.drawn { display: flex; flex-direction: column; }
.drawn div { display: grid; grid-template-columns: 1fr 1fr; gap: 1px; border-bottom: 1px solid var(--edge); background: var(--edge); }
.drawn img { width: 100%; }
.drawn figcaption { padding: 10px 12px 8px; font-size: 0.9rem; line-height: 1.4; flex: 1; }
.drawn p { margin: 0; padding: 0 12px 12px; display: flex; gap: 4px; flex-wrap: wrap; }
.answers { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 16px; }
.answer { display: flex; gap: 12px; padding: 10px; align-items: center; }
.answer img { width: 84px; height: 84px; border-radius: 6px; flex: none; outline: 1px solid var(--edge); }
.answer figcaption { font-size: 0.92rem; line-height: 1.4; }
.answer span.asks { color: var(--soft); display: block; white-space: pre-line; }
.answer span.says { display: block; font-weight: 600; }
.answer small { display: block; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 16px; }
.chart { padding: 12px 12px 8px; }
.chart figcaption { font-size: 0.92rem; line-height: 1.4; display: flex; justify-content: space-between; gap: 4px 12px; flex-wrap: wrap;
  font-variant-numeric: tabular-nums; }
.chart figcaption span span:not(:first-child) { margin-left: 8px; }
.chart figcaption b, .chart .key { white-space: nowrap; }
.chart svg { display: block; width: 100%; height: auto; margin-top: 6px; }
.chart text { font-size: 11px; fill: var(--soft); }
.chart .grid { stroke: var(--edge); }
.chart polyline { fill: none; stroke: currentColor; stroke-linejoin: round; }
.chart .line { stroke-width: 2; }
.chart .raw { stroke-width: 1; opacity: 0.28; }
.chart .asked { stroke: currentColor; stroke-dasharray: 5 4; opacity: 0.8; }
.understanding { color: var(--understanding); } .text { color: var(--text); }
.generation { color: var(--generation); } .plain { color: var(--plain); }
.mixture { font-size: 0.92rem; margin: 0 0 14px; }
.previews { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 14px; }
.previews figcaption { color: var(--soft); font-size: 0.85rem; }
.previews img { width: 100%; border-radius: 8px; border: 1px solid var(--edge); }
details { border-top: 1px solid var(--edge); padding: 10px 0; }
summary { cursor: pointer; }
pre { overflow-x: auto; font-size: 0.85rem; line-height: 1.45; background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: 12px; }
@media (max-width: 760px) {
  header, main, footer { padding-left: 14px; padding-right: 14px; }
  .results thead { display: none; }
  .results tr { display: grid; grid-template-columns: 1fr 1fr; gap: 2px 14px; padding: 12px 0; border-top: 1px solid var(--edge); }
  .results td { border: 0; padding: 0; white-space: normal; width: auto !important; }
  .results td.name, .results td.graph, .results td.value { grid-column: 1 / -1; }
  .results td.name { font-weight: 600; }
  .results td.graph { padding: 6px 0; }
  .results td[data-name]:not([data-name=""]):not(.value)::before { content: attr(data-name) " "; color: var(--soft); font-size: 0.85rem; }
  .parts td, .parts th { padding-left: 0; padding-right: 8px; }
  .pictures { grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 12px; }
}
"""
