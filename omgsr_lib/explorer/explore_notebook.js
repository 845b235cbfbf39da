// The explorer in a notebook: widgets.py puts cases, frames and the state of the kernel as JSON into hidden widgets beside
// this page; what is wished for, and uploads in parts, are written into two hidden fields. Comes before explore_page.js.

const read = new Map();  // text of each message by its place
let sent = 0, taken;  // uploads; resolves when the kernel has the part

function write(name, message) {
  const field = live.querySelector(`.omgsr-${name} textarea`);
  field.value = JSON.stringify(message);
  for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));
}

const wish = () => write("wish", { photo: state.photo, strength: state.strength, centre: state.centre, timestep: current ? timestep() : null });

async function receive() {
  for (const [place, script] of [...live.querySelectorAll(".omgsr-mail script")].entries()) {
    const text = script.textContent;
    if (read.get(place) === text) continue;
    read.set(place, text);
    const { kind, ...content } = JSON.parse(text);
    if (kind === "status") report(content);
    if (kind === "case") await begin(content);
    if (kind === "frames" && current?.key === content.key) await add(content);
  }
}

async function begin(content) {
  await show({ ...content, frames: {} });
  $("part").hidden = false;
  const [left, top, right, bottom] = content.box.map(share => 100 * share);
  const [image, box] = $("whole").children;
  image.src = content.overview;
  Object.assign(box.style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
  for (const [place, text] of read) if (text?.startsWith('{"kind":"frames"')) read.set(place, null);  // they may be this case's
}

async function add({ timestep: t, frames, key }) {
  await Promise.all(Object.values(frames).map(load));
  if (key !== current.key) return;
  current.frames[t] = frames;
  if (t === timestep()) draw();
}

function report({ photos, done, planned, message, error, added, part }) {
  list(photos);
  $("status").textContent = message || (done < planned ? `${done} of ${planned} timesteps computed` : "");
  $("status").hidden = !$("status").textContent;
  $("error").textContent = error;
  $("error").hidden = !error;
  if (error) $("matrix").classList.remove("stale");
  if (taken && part?.[0] === sent) taken(part[1], added);
}

async function upload(file) {
  if (file.size > data.live.limit) {
    $("limit").textContent = `'${file.name}' has ${(file.size / 1e6).toFixed(0)} MB, more than the ${data.live.limit / 1e6} MB that are sent: put it in a folder and set photos = "folder" in the parameters above.`;
    return;
  }
  sent = Date.now();
  const parts = Math.max(1, Math.ceil(file.size / data.live.part));
  for (let number = 0; number < parts; number++) {
    const content = await new Promise(resolve => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result.split(",")[1] ?? "");
      reader.readAsDataURL(file.slice(number * data.live.part, (number + 1) * data.live.part));
    });
    const [, added] = await new Promise(resolve => {
      taken = (arrived, added) => arrived === number && resolve([arrived, added]);
      write("upload", { name: file.name, upload: sent, number, parts, content });
    });
    $("status").hidden = false;
    $("status").textContent = `${file.name}: ${Math.round(100 * (number + 1) / parts)} % sent`;
    if (added) { list([...$("photo").options].map(option => option.value)); state.strength = data.live.own; choose(added); }
  }
  taken = null;
}

let receiving = Promise.resolve();

function connect() {
  document.body.className = "live";
  $("lossy").hidden = true;
  $("own").hidden = false;
  $("limit").textContent = `Up to ${data.live.limit / 1e6} MB. Larger ones, or many: photos = "folder" above.`;
  $("file").addEventListener("change", event => { if (event.target.files.length) upload(event.target.files[0]); event.target.value = ""; });
  const drop = document.querySelector(".drop");
  for (const kind of ["dragover", "dragleave", "drop"]) drop.addEventListener(kind, event => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) upload(event.dataTransfer.files[0]);
  });
  $("whole").addEventListener("click", event => {
    const box = $("whole").getBoundingClientRect();
    state.centre = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    open();
  });
  new ResizeObserver(() => { frameElement.style.height = `${document.body.offsetHeight + 8}px`; }).observe(document.body);
  new MutationObserver(() => { receiving = receiving.then(receive); }).observe(live, { childList: true, subtree: true });
  receiving = receiving.then(receive);
}
