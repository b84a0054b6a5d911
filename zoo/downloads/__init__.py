"""What ``zoo fetch`` knows: the table of assets, the registries' clients, and a converter for each asset that needs one."""
