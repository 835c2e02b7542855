// A kernel answers: anywidget calls `render`.

import { element, NUMBERS, numbers } from "./elements.js";
import { Widget } from "./widget.js";

const SILENCE = 400, PATIENCE = 5000; // milliseconds until a kernel is called silent, and until a question goes out again

// Calls `act` whenever the kernel becomes idle, where the front end says so, as JupyterLab does. What is returned ends it.
function whenIdle({ widget_manager: manager }, act) {
  const signal = manager?.kernel?.statusChanged, listen = (_, status) => status === "idle" && act();
  signal?.connect(listen);
  return () => signal?.disconnect(listen);
}

// However late: a busy kernel keeps the question. One that may have been lost is given up for a newer one, and goes out
// once more when the kernel is idle and has not answered.
function kernelAnswers(model) {
  let count = 0;
  return ({ image, x, observed, view, noise }, widget) => new Promise((resolve, reject) => {
    const id = ++count, start = Date.now(), { page } = widget, isOwn = image === widget.own;
    const buffers = [observed.buffer, ...(isOwn ? [NUMBERS[page.dtype].from(x).buffer] : [])];
    let sent = -Infinity;
    const send = () => {
      if (Date.now() - sent < PATIENCE) return;
      sent = Date.now();
      model.send({ id, image: isOwn ? null : image, view, noise }, undefined, buffers);
    };
    const finish = (settle, result) => {
      clearInterval(watch);
      forget();
      model.off("msg:custom", listen);
      settle(result);
    };
    const listen = (content, buffers) => {
      if (content.id !== id) return;
      if (content.error) return finish(reject, new Error(content.error));
      const { buffer, byteOffset, byteLength } = buffers[0], images = view === "samples" ? 6 : 1;
      finish(resolve, { ...content, values: numbers(new Uint8Array(buffer, byteOffset, byteLength), page, images) });
    };
    const watch = setInterval(() => {
      widget.fallSilent();
      if (widget.waiting && Date.now() - start > PATIENCE) finish(resolve, null);
    }, SILENCE), forget = whenIdle(model, send);
    model.on("msg:custom", listen);
    send();
  });
}

// JupyterLab shows "model not found" in a notebook that is opened again, unless the state of its widgets was saved, which is
// off by default. So the state of the inpainters that the notebook shows goes into it, in JupyterLab's own format.
function keepInNotebook(manager) {
  const notebook = manager?.context?.model, kind = "application/vnd.jupyter.widget-state+json";
  if (!notebook?.setMetadata || !manager.get_state_sync) return; // not JupyterLab
  const cells = JSON.stringify(notebook.toJSON().cells), saved = notebook.getMetadata("widgets")?.[kind]?.state ?? {};
  const now = manager.get_state_sync({ drop_defaults: true });
  const withLayouts = (all, isMeant) => Object.keys(all)
    .filter((id) => all[id].state?._anywidget_id?.endsWith(".InpaintWidget") && isMeant(id))
    .flatMap((id) => [id, String(all[id].state.layout).replace("IPY_MODEL_", "")]);
  const old = new Set(withLayouts(saved, () => true)), shown = new Set(withLayouts(now.state, (id) => cells.includes(id)));
  const of = (all, isMeant) => Object.entries(all).filter(([id]) => isMeant(id));
  const state = Object.fromEntries([...of(saved, (id) => !old.has(id)), ...of(now.state, (id) => shown.has(id))]);
  notebook.setMetadata("widgets", { [kind]: { ...now, state } });
}

function render({ model, el }) {
  const root = element(el, "div", { class: "einet-inpaint" });
  keepInNotebook(model.widget_manager);
  try {
    const widget = new Widget(root, model.get("page"), kernelAnswers(model));
    return () => widget.forget();
  } catch (error) {
    element(root, "p", { class: "message", role: "alert" }, `This widget cannot be shown: ${error.message}.`);
  }
}

export { render };
