"use strict";
// Eq. 5, 7, 8, 10 and 11, as cotbal/estimate/formulas.py states them.
function cotbalWeights(rule, signals, temperature, alpha) {
  const softmax = (signal, sign) => {
    const scaled = signal.map((value) => (sign * value) / temperature);
    const top = Math.max(...scaled);
    const powers = scaled.map((value) => Math.exp(value - top));
    const total = powers.reduce((sum, power) => sum + power, 0);
    return powers.map((power) => (signal.length * power) / total);
  };
  const mix = (first, second, share) => first.map((value, i) => share * value + (1 - share) * second[i]);
  const one2all = () => softmax(signals.one2all, 1);
  const all2one = () => softmax(signals.all2one, -1);
  const difficulty = () => softmax(signals.difficulty, 1);
  const contribution = () => mix(one2all(), all2one(), 0.5);
  const rules = {
    one2all, all2one, difficulty, contribution,
    cotbal: () => mix(contribution(), difficulty(), alpha),
    equal: () => signals.tasks.map(() => 1),
  };
  return rules[rule]();
}

function startWhatIf(data) {
  const find = (name) => document.getElementById(`what-if-${name}`);
  const [rule, temperature, alpha] = ["rule", "temperature", "alpha"].map(find);
  const rows = [...document.querySelectorAll("#table-what-if tbody tr")];
  let chosen;
  const show = () => {
    const weights = cotbalWeights(chosen.rule, data.signals, chosen.temperature, chosen.alpha);
    const longest = Math.max(2, ...weights);
    rows.forEach((row, i) => {
      row.cells[1].textContent = weights[i].toFixed(3);
      row.cells[3].firstElementChild.style.width = `${(100 * weights[i]) / longest}%`;
      row.cells[3].style.setProperty("--equal", `${100 / longest}%`);
    });
    find("temperature-value").textContent = String(+chosen.temperature.toFixed(4));
    find("alpha-value").textContent = String(+chosen.alpha.toFixed(4));
    temperature.disabled = chosen.rule === "equal";
    alpha.disabled = chosen.rule !== "cotbal";
  };
  const reset = () => {
    chosen = { rule: data.rule, temperature: data.temperature, alpha: data.alpha };
    [rule.value, temperature.value, alpha.value] = [chosen.rule, chosen.temperature, chosen.alpha];
    show();
  };
  rule.addEventListener("input", () => { chosen.rule = rule.value; show(); });
  temperature.addEventListener("input", () => { chosen.temperature = Number(temperature.value); show(); });
  alpha.addEventListener("input", () => { chosen.alpha = Number(alpha.value); show(); });
  find("reset").addEventListener("click", reset);
  find("controls").hidden = false;
  reset();
}

if (typeof document !== "undefined") startWhatIf(JSON.parse(document.getElementById("what-if-data").textContent));
