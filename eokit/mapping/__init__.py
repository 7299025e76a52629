"""From a bundle and a scene to a map."""
