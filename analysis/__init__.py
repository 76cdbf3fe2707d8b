"""Scripts that read the folder of a study and print, draw or write what it shows."""
