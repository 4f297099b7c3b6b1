//! A hundred thousand sandboxes are no more than their descriptions.
