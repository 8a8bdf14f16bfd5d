"""`make obedience` in small: a few minutes of training, and it obeys more than it did untrained."""

from infra.demo.obedience import PICTURE, WAYS, Flags, learn, prepare


def test_a_model_learns_to_do_as_it_is_told(tmp_path):
    flags = Flags(
        out=tmp_path,
        episodes=2000,
        starts=16,
        steps=400,
        batch_size=8,
        measure_every=400,
        frames=4,
        sampling_steps=8,
    )
    untrained, trained = learn(flags, prepare(flags), learning_rate=2e-3, ema_decay=0.97)
    for way in WAYS:
        assert untrained[f"{way}: pushes"] < 0.05
        assert trained[f"{way}: pushes"] > untrained[f"{way}: pushes"] + 0.12
    assert (tmp_path / PICTURE).stat().st_size > 10_000
