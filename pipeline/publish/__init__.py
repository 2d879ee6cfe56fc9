"""The way out: what a release must prove before it leaves its folder, and the upload that compares every byte again."""
