//! Reads `/proc/self/mountinfo`.

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Which part of the file system is mounted.
    pub(crate) root: String,
    /// Where.
    pub(crate) point: String,
    /// Options of this mount.
    pub(crate) options: Vec<String>,
    /// Kind of file system.
    pub(crate) kind: String,
    /// Options of the file system itself.
    pub(crate) super_options: Vec<String>,
}

impl Mount {
    /// Whether files can be changed through it.
    pub(crate) fn is_writable(&self) -> bool {
        let read_only = |options: &[String]| options.iter().any(|option| option == "ro");
        !read_only(&self.options) && !read_only(&self.super_options)
    }
}

/// Every mount of the text that has the expected form, in order.
pub(crate) fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ').skip(3);
    let mut tail = tail.split(' ');
    let options = |text: &str| text.split(',').map(str::to_owned).collect();
    Some(Mount {
        root: unescape(head.next()?),
        point: unescape(head.next()?),
        options: options(head.next()?),
        kind: tail.next()?.to_owned(),
        super_options: options(tail.nth(1)?),
    })
}

/// Undoes the kernel's octal escapes of blanks and backslashes.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_with_and_without_optional_fields() {
        let mounts = parse(
            "96 72 0:40 / / ro,relatime master:2 - overlay overlay rw,lowerdir=/a\n\
             112 98 0:48 / /a\\040b rw,nosuid - tmpfs shm rw,size=65536k\n\
             nonsense\n",
        );
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, "/");
        assert!(!mounts[0].is_writable());
        assert_eq!(mounts[1].point, "/a b");
        assert_eq!(mounts[1].kind, "tmpfs");
        assert!(mounts[1].is_writable());
    }

    #[test]
    fn a_read_only_file_system_is_not_writable_through_a_writable_mount() {
        let mounts = parse("1 0 0:1 / /x rw - squashfs none ro\n");
        assert!(!mounts[0].is_writable());
    }
}
