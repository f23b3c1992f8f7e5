"""What the page of rows needs beyond the report's style: strips, tokens, pictures."""

STYLE = """
.step { padding-top: 34px; }
.facts { display: flex; flex-wrap: wrap; gap: 2px 18px; color: var(--soft); font-size: 0.92rem; margin: 2px 0; font-variant-numeric: tabular-nums; }
.facts b { color: var(--ink); }
code { font: 0.88em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.key { font-weight: 600; }
.key::before { content: ""; display: inline-block; width: 0.7em; height: 0.7em; border-radius: 2px; margin-right: 0.35em; background: currentColor; }
.mixture { margin: 2px 0 6px; }
details.row { padding: 0; border: 0; }
details.row > summary { display: grid; grid-template-columns: 4.6em 1fr 4.4em; gap: 10px; align-items: center; padding: 4px 6px; border-radius: 6px;
  list-style: none; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
details.row > summary::-webkit-details-marker { display: none; }
details.row > summary::before { content: none; }
details.row > summary:hover { background: var(--track); }
details.row > summary:focus-visible, details.legend > summary:focus-visible { outline: 2px solid var(--understanding); outline-offset: 1px; }
details.row .name::before { content: "▸ "; color: var(--soft); }
details.row[open] .name::before { content: "▾ "; }
.flat { display: grid; grid-template-columns: 4.6em 1fr 4.4em; gap: 10px; align-items: center; padding: 4px 6px; font-size: 0.85rem;
  font-variant-numeric: tabular-nums; }
.flat .name { padding-left: 1em; }
.fill { text-align: right; color: var(--soft); }
.strip { display: flex; height: 22px; border-radius: 4px; overflow: hidden;
  background: repeating-linear-gradient(135deg, var(--track) 0 5px, var(--paper) 5px 10px); }
.strip i { position: relative; display: block; flex: none; height: 100%; border-right: 2px solid var(--paper); box-sizing: border-box; overflow: hidden;
  background: color-mix(in srgb, currentColor 34%, var(--paper)); }
.strip b { position: absolute; display: block; }
.strip .p { top: 0; bottom: 0; background: currentColor; }
.strip .l { bottom: 0; height: 5px; background: var(--ink); }
.opened { margin: 2px 0 18px; display: grid; gap: 12px; }
.sample { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: 10px 14px 12px; min-width: 0; }
.sample h4 { margin: 0 0 6px; font-size: 0.95rem; font-weight: 400; display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: baseline; }
.tokens { margin: 4px 0; line-height: 1.9; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.95rem; }
.tokens s, .tokens u { text-decoration: none; border-radius: 3px; padding: 1px 0; }
.tokens s:nth-child(even), .tokens u:nth-child(even) { background: color-mix(in srgb, var(--ink) 9%, transparent); }
.tokens s { color: var(--soft); }
.tokens u { color: var(--loss); text-decoration: underline 2px; text-underline-offset: 4px; text-decoration-skip-ink: none; }
.tokens .x { font: 0.82em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; border: 1px solid var(--edge); padding: 1px 4px; margin: 0 1px; background: var(--track); white-space: nowrap; }
.tokens .g { border-color: var(--loss); border-bottom-width: 3px; color: var(--loss); }
.tokens .y { opacity: 0.65; border: 1px dashed var(--loss); padding: 1px 4px; }
.tokens .y::before { content: "→ "; }
.tokens em { font-style: normal; opacity: 0.55; }
.seen { display: inline-flex; flex-wrap: wrap; gap: 6px 12px; align-items: center; max-width: 100%; margin: 6px 0; }
.seen img { width: auto; height: auto; max-width: min(100%, 240px); min-width: 128px; border-radius: 6px; outline: 1px solid var(--edge); }
.seen img.small { image-rendering: pixelated; }
.seen.learnt img { outline: 3px solid var(--loss); outline-offset: 1px; }
.seen figcaption { font-size: 0.82rem; color: var(--soft); line-height: 1.4; max-width: 34ch; }
.seen .loss { color: var(--loss); text-decoration: underline 2px; text-underline-offset: 3px; }
.cut { background: var(--no-back); color: var(--no); border-radius: 8px; padding: 8px 12px; }
.cut ul { margin: 2px 0; padding-left: 20px; }
.legend p { margin: 6px 0; max-width: 84ch; }
.legend .strip { max-width: 420px; }
:root { --loss: #a3195b; }
@media (prefers-color-scheme: dark) { :root { --loss: #ff8fc2; } }
@media (max-width: 760px) {
  details.row > summary, .flat { grid-template-columns: 1fr auto; padding: 6px 0; gap: 2px 10px; }
  details.row .strip, .flat .strip { grid-column: 1 / -1; grid-row: 2; }
  .flat .name { padding-left: 0; }
  .sample { padding: 8px 10px 10px; }
}
"""
