"""The report's style sheet: light and dark, wide and narrow, screen and paper."""

CSS = """
:root { color-scheme: light dark;
  --page: #f6f5f2; --card: #ffffff; --ink: #1d2327; --soft: #5b646c; --line: #e4e2dc; --wash: #f0eeea;
  --integer: #3d6bb3; --number: #3d6bb3; --date: #14807a; --datetime: #14807a; --boolean: #a86510;
  --text: #7a52a3; --empty: #6b7278; --gap: #c2483a; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171a; --card: #1c2024; --ink: #e7e9ea; --soft: #a0a9b0; --line: #2d3338; --wash: #252a2f;
  --integer: #7aa5e8; --number: #7aa5e8; --date: #4fbdb4; --datetime: #4fbdb4; --boolean: #e0a04a;
  --text: #b794dd; --empty: #98a1a8; --gap: #ee8172; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 ui-sans-serif, system-ui,
  -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; font-variant-numeric:
  tabular-nums;
  -webkit-text-size-adjust: 100%; }
main { max-width: 1180px; margin: 0 auto; padding: 48px 24px 56px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -.02em; font-weight: 650; margin: 0; overflow-wrap:
  anywhere; }
h2 { font-size: 19px; letter-spacing: -.01em; font-weight: 650; margin: 44px 0 14px; }
h3 { font-size: 16px; line-height: 1.35; font-weight: 650; margin: 0; min-width: 0; overflow-wrap: anywhere; }
p { margin: 0; } .soft, .kicker { color: var(--soft); }
.kicker { font-size: 13px; margin-bottom: 6px; }
.tiles { display: grid; grid-template-columns: repeat(6, 1fr); gap: 1px; margin: 28px 0 0; padding: 0;
  background: var(--line); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }
.tiles div { background: var(--card); padding: 14px 18px 15px; min-width: 0; }
.tiles dt { color: var(--soft); font-size: 13px; }
.tiles dd { margin: 1px 0 0; font-size: 22px; line-height: 1.3; font-weight: 600; letter-spacing: -.01em;
  overflow-wrap: anywhere; }
.notes { margin: 20px 0 0; padding: 12px 18px 12px 34px; background: var(--card); border: 1px solid
  var(--line);
  border-left: 3px solid var(--boolean); border-radius: 8px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 16px; }
.card { --accent: var(--empty); display: flex; flex-direction: column; gap: 12px; background: var(--card);
  border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; min-width: 0; }
.integer { --accent: var(--integer); } .number { --accent: var(--number); } .date { --accent: var(--date); }
.datetime { --accent: var(--datetime); } .boolean { --accent: var(--boolean); } .text { --accent:
  var(--text); }
.card header { display: flex; gap: 10px; align-items: baseline; justify-content: space-between; }
.badge { flex: none; color: var(--accent); border: 1px solid currentColor; border-radius: 99px; padding: 0
  9px;
  font-size: 12px; line-height: 19px; font-weight: 550; }
.facts { display: flex; justify-content: space-between; gap: 12px; font-size: 13px; color: var(--soft); }
.gapline { display: block; width: 100%; height: 3px; margin-top: 5px; border-radius: 2px; background:
  var(--wash); }
.gapline rect { fill: var(--gap); }
.chart { display: block; width: 100%; height: auto; } .chart .bar { fill: var(--accent); }
.chart .base { stroke: var(--line); } .chart .range { stroke: var(--accent); stroke-linecap: round; }
.chart .thin { stroke-width: 1.5; opacity: .55; } .chart .thick { stroke-width: 5; opacity: .55; }
.chart .middle { fill: var(--card); stroke: var(--accent); stroke-width: 2; }
.axis { display: flex; justify-content: space-between; gap: 12px; font-size: 12px; color: var(--soft);
  margin-top: 2px; }
.even > span { flex: 1 1 0; text-align: center; }
.bars { list-style: none; margin: 0; padding: 0; display: grid; gap: 7px; font-size: 13.5px; }
.bars li { display: grid; grid-template-columns: minmax(0, 1fr) auto; column-gap: 12px; line-height: 1.35; }
.bars bdi { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bars svg { grid-column: 1 / -1; width: 100%; height: 5px; border-radius: 3px; background: var(--wash);
  margin-top: 2px; }
.bars rect { fill: var(--accent); } .bars .soft svg { visibility: hidden; height: 0; margin: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(88px, 1fr)); gap: 8px 14px; margin:
  auto 0 0;
  padding-top: 12px; border-top: 1px solid var(--line); }
.figures dt { font-size: 12px; color: var(--soft); } .figures dd { margin: 0; font-weight: 550; font-size:
  14px;
  overflow-wrap: anywhere; }
.quotes { display: grid; gap: 4px; margin: 0; padding: 0; list-style: none; font-size: 13.5px; }
.quotes li { padding: 3px 9px; background: var(--wash); border-radius: 6px; overflow-wrap: anywhere; }
.odd { font-size: 13px; } .odd b { color: var(--gap); font-weight: 600; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.scroll:focus-visible { outline: 2px solid var(--integer); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: left; padding: 8px 14px; white-space: nowrap; border-bottom: 1px solid var(--line); }
td { max-width: 340px; overflow: hidden; text-overflow: ellipsis; } tbody tr:last-child > * { border-bottom:
  0; }
thead th { color: var(--soft); font-weight: 550; } tbody th { color: var(--soft); font-weight: 400; }
.right { text-align: right; } .none { color: var(--soft); font-style: italic; }
footer { margin-top: 40px; padding-top: 16px; border-top: 1px solid var(--line); color: var(--soft);
  font-size: 12.5px;
  display: grid; gap: 3px; overflow-wrap: anywhere; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space:
  nowrap; }
@media (max-width: 900px) { .tiles { grid-template-columns: repeat(3, 1fr); } }
@media (max-width: 520px) { main { padding: 28px 16px 40px; } h1 { font-size: 24px; }
  .tiles { grid-template-columns: repeat(2, 1fr); } .tiles div { padding: 11px 14px; } .tiles dd {
  font-size: 19px; } }
@media print { :root { color-scheme: light; --page: #fff; --card: #fff; --ink: #111; --soft: #555; --line:
  #ccc;
    --wash: #eee; --integer: #3d6bb3; --number: #3d6bb3; --date: #14807a; --datetime: #14807a; --boolean:
    #a86510;
    --text: #7a52a3; --empty: #6b7278; --gap: #c2483a; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; } body { font-size: 11px; }
  main { max-width: none; padding: 0; } .cards { grid-template-columns: repeat(2, 1fr); }
  .card, .tiles, tr { break-inside: avoid; } h2 { break-after: avoid; } .scroll { overflow: visible; }
  td { white-space: normal; } }
"""
