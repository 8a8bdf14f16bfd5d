"""Open3D loads and computes on this machine, whether or not it has libusb."""

import numpy as np

from pipelines.ops.geometry import open3d


def test_open3d_raycasts_a_box():
    o3d = open3d()
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.t.geometry.TriangleMesh.create_box())
    ray = o3d.core.Tensor([[0.5, 0.5, -2.0, 0.0, 0.0, 1.0]], dtype=o3d.core.Dtype.Float32)
    hit = scene.cast_rays(ray)["t_hit"].numpy()
    np.testing.assert_allclose(hit, [2.0], atol=1e-5)
