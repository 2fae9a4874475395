from tests.platforms import spatialdata_store, visium_folder, visium_hd_folder, xenium_folder

__all__ = ["spatialdata_store", "visium_folder", "visium_hd_folder", "xenium_folder"]
