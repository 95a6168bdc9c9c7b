// An image whose bytes and alternative text come from Python, replaced as they change.
function render({ model, el }) {
  const picture = el.appendChild(document.createElement("img"));
  picture.className = "vqcore-picture";
  picture.style.cssText = `display:block;width:${model.get("width")}px;max-width:100%;height:auto`;
  let address = null;
  const draw = () => {
    const old = address;
    address = URL.createObjectURL(new Blob([model.get("value")], { type: `image/${model.get("format")}` }));
    picture.src = address;
    picture.alt = model.get("alt"); // a text, never markup
    if (old) URL.revokeObjectURL(old);
  };
  model.on("change:value", draw);
  model.on("change:alt", draw);
  draw();
  return () => { model.off("change:value", draw); model.off("change:alt", draw); URL.revokeObjectURL(address); };
}
export default { render };
