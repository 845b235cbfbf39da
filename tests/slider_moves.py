"""Moves of the slider of the explorer, each timed until its images are drawn."""

MOVES = 200
MOVE = """async count => {
    const slider = document.getElementById("timestep"), times = [];
    for (let move = 0; move < count; move++) {
        slider.value = move % (+slider.max + 1);
        const start = performance.now();
        slider.dispatchEvent(new Event("input"));
        await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
        times.push(performance.now() - start);
    }
    return times;
}"""
