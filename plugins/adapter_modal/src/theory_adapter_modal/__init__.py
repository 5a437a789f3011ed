"""The adapter ``modal``: runs an entry's image on Modal, through the ``modal`` package."""
