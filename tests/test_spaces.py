"""spaces.py: the table of latent spaces has the package's own as measured elsewhere, and what is published."""

import numpy as np
import pytest

from omgsr_lib.data.pairs import evaluation_pairs
from omgsr_lib.data.photos import packaged_photos
from omgsr_lib.midstep import snr_mid_timestep
from omgsr_lib.priors.latent_space import load_latent_space
from omgsr_lib.priors.latents import encode_pairs
from omgsr_lib.report.render import read_results, spaces_table
from omgsr_lib.study.spaces import STEP, write_latent_spaces


def test_the_table_of_latent_spaces(tmp_path):
    photos = packaged_photos("eval")[:3]
    frame = write_latent_spaces(tmp_path / "spaces.csv", photos, size=64, short_side=128)
    pairs = evaluation_pairs(photos, 64, seed=0, short_side=128)
    measured = frame[frame["source"] == "measured"].set_index("schedule")
    for family, label in (("ddpm", "DDPM"), ("flow", "flow matching")):
        vae, schedule = load_latent_space("mini", family)
        lq, hq = encode_pairs(vae, pairs)
        row = measured.loc[label]
        assert row.timestep == snr_mid_timestep(lq, hq, schedule).timestep and row.low <= row.timestep <= row.high
        assert row.difference == pytest.approx(float((lq - hq).square().mean()), rel=1e-4)
        assert row.sliced_wasserstein in (*range(0, 1000, STEP), 999)
    published = frame[frame["source"] != "measured"]
    assert {273, 244, 195, 295} == set(published["timestep"]) and published["power"].isna().all()
    table = spaces_table(read_results(tmp_path / "spaces.csv"))
    assert len(table.rows) == 6 and "Sliced Wasserstein" in table.headings
    assert np.unique([len(row) for row in table.rows]).tolist() == [len(table.headings)]
