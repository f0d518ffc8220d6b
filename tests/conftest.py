"""Eight virtual CPU devices for every test; a test takes the ones it wants."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
