// An image whose bytes and alternative text come from Python, replaced as they change.

// What ipywidgets leaves open: controls that keep their keys to themselves, and that have a name.
function listensAndSpeaks(box) {
  // JupyterLab takes arrow keys and letters of whatever has the focus: on a list, "dd" would delete the cell.
  const keep = (e) => { e.target.dataset.lmSuppressShortcuts = "true"; };
  const name = () => {
    for (const handle of box.querySelectorAll(".noUi-handle:not([aria-label])")) {
      const label = handle.closest(".widget-inline-hbox").querySelector(".widget-label");
      if (label && label.textContent) handle.setAttribute("aria-label", label.textContent);
    }
    for (const [icon, words] of [["fa-play", "play"], ["fa-pause", "pause"], ["fa-stop", "stop"]]) {
      for (const button of box.querySelectorAll(`button:has(.${icon})`))
        if (button.title !== words) { button.title = words; button.setAttribute("aria-label", words); }
    }
  };
  const watch = new MutationObserver(name);
  box.addEventListener("focusin", keep);
  watch.observe(box, { childList: true, subtree: true, attributes: true, attributeFilter: ["class"] });
  name();
  return () => { box.removeEventListener("focusin", keep); watch.disconnect(); };
}

function render({ model, el }) {
  const picture = el.appendChild(document.createElement("img"));
  picture.className = "vqcore-picture";
  picture.style.cssText = `display:block;width:${model.get("width")}px;max-width:100%;height:auto`;
  let address = null, shown = new Uint8Array(), stop = [];
  const show = (view, words) => {
    picture.alt = words; // a text, never markup
    const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength), old = address;
    // What lay ready comes again from Python: to decode and paint it twice would hold up the next one.
    if (old && bytes.length === shown.length && bytes.every((byte, i) => byte === shown[i])) return;
    shown = bytes;
    address = URL.createObjectURL(new Blob([bytes], { type: `image/${model.get("format")}` }));
    picture.src = address;
    if (old) URL.revokeObjectURL(old);
  };
  const draw = () => show(model.get("value"), model.get("alt"));
  const listen = (source, event, act) => { source.on(event, act); stop.push(() => source.off(event, act)); };
  listen(model, "change:value", draw);
  listen(model, "change:alt", draw);
  // As soon as the controls stand where a picture belongs, it is shown; Python says the same a little later.
  Promise.all(Object.keys(model.get("at")).map((id) => model.widget_manager.get_model(id))).then((controls) => {
    const met = (at) => controls.length && controls.every((one) => {
      const [trait, value] = at[one.model_id] || [];
      const now = one.get(trait); // sliders add up their steps, with rounding
      return trait && (now === value || (typeof now === "number" && Math.abs(now - value) < 1e-9));
    });
    const follow = () => {
      if (met(model.get("ahead_at"))) show(model.get("ahead"), model.get("ahead_alt"));
      else if (met(model.get("at"))) draw();
    };
    for (const control of controls) listen(control, "change", follow);
  });
  let waiting = null;
  const settle = () => {
    const box = el.closest(".vqcore-explorer");
    if (box) stop.push(listensAndSpeaks(box));
    else waiting = setTimeout(settle, 50);
  };
  stop.push(() => clearTimeout(waiting));
  settle();
  draw();
  return () => { stop.forEach((act) => act()); URL.revokeObjectURL(address); };
}
export default { render };
