"""Where an AnnData is read: columns of ``obs``, sections, positions."""
