"""Parts of a balancer, constructed and connected group by group; `llb.balancer` starts and stops them."""
