"""A page in the browser that follows the runs of a results folder: status, curves, sample grids and logs. It reads only."""
