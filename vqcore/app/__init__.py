"""The explorers of the suite as a dashboard in the browser."""
