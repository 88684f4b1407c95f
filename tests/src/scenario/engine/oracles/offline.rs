//! *verify*: after every crash the files are sound: what the newest roots reach, the segments, the chain
//! of each journal. A torn root slot or a torn tail is what a crash leaves; anything else is damage.

use tidemill::depot::inspect;
use tidemill::pstate::verify;
use tidemill::types::PartitionId;

use crate::disk::DiskHandle;
use crate::scenario::{Failure, check};

const NAME: &str = "verify";

/// Where the root slots end; a crash may tear one of them.
const ROOTS_END: u64 = 256 << 10;

pub(in super::super) fn judge(disk: &DiskHandle) -> Result<u64, Failure> {
    let mut files = 0;
    for path in disk.paths() {
        let Some((partition, name)) = partition_file(&path) else { continue };
        let Some(bytes) = disk.contents(&path) else { continue };
        files += 1;
        if name == "pages" {
            let verified = verify(&bytes, Some(partition));
            let torn = verified.findings.iter().filter(|it| it.byte < ROOTS_END).count();
            let bad = verified.findings.iter().find(|it| it.byte >= ROOTS_END);
            check(NAME, torn <= 1 && bad.is_none(), || format!("{path}: {:?}", verified.findings))?;
        } else if !name.contains("reserve") && !bytes.is_empty() {
            // Only the last block of an unsealed segment may be torn, which is no panic here; what is
            // proved is checked by opening.
            let _walked_without_a_panic = inspect(&bytes, None, &mut |_| {});
        }
    }
    Ok(files)
}

/// The partition and name of a file of a partition.
fn partition_file(path: &str) -> Option<(PartitionId, &str)> {
    let (partition, name) = path.strip_prefix("p/")?.split_once('/')?;
    Some((PartitionId(partition.parse().ok()?), name))
}
