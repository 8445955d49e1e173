"""Serves `ray_site` on a Ray of this process's own: `python -m tests.hosts.run_ray_site PORT`."""

import sys

import ray
from ray import serve

from tests.hosts.ray_site import site

ray.init(include_dashboard=False, _node_ip_address="127.0.0.1")
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(site, name="site", blocking=True)
