//! Users who register, and edit their profiles: `cargo run --example profiles`.
//!
//! Two people may want one name at the same time, and a browser may send a registration twice because it
//! has not seen the answer. So each request carries an id that the browser drew. The first request for a name
//! wins it; the same request once more changes nothing, and is answered as before; any other has lost.
//!
//! ```text
//! registrations, where the name lives        edits, where the user lives
//!       │  is the name free?                       │
//!       ├── writes names: name -> user, request    │
//!       ▼  hop to where the new user lives         ▼
//!    writes profiles: the fields              writes profiles: the fields that change
//! ```

use serde::{Deserialize, Serialize};
use tidemill::module::{Depot, Module};
use tidemill::schema::{Map, PState, Schema};
use tidemill::{Engine, Launched, Options, block_on};
use uuid::Uuid;

tidemill::key! {
    /// A number that nobody else has.
    #[derive(Copy)]
    pub(crate) struct UserId(pub(crate) u128);
}

/// A request for a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Registration {
    pub(crate) name: String,
    /// Drawn by who asks. It is the same however often one request is sent.
    pub(crate) request: Uuid,
    pub(crate) password_hash: String,
}

/// A change to a profile: only what is there is changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Edit {
    pub(crate) user: UserId,
    pub(crate) fields: Vec<Field>,
}

/// A field's new value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Field {
    PasswordHash(String),
    DisplayName(String),
    HeightCm(u16),
}

/// Who has a name. One value: it is written once, and read whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) user: UserId,
    pub(crate) request: Uuid,
}

/// A record: each field is stored by itself, and written without reading the others.
#[derive(Schema)]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) password_hash: String,
    pub(crate) display_name: String,
    pub(crate) height_cm: u16,
}

pub(crate) struct Users {
    pub(crate) registrations: Depot<Registration>,
    pub(crate) edits: Depot<Edit>,
    pub(crate) names: PState<Map<String, Holder>>,
    pub(crate) profiles: PState<Map<UserId, Profile>>,
}

pub(crate) fn users(m: &Module) -> Users {
    // All requests for one name meet in one partition, where one comes after the other.
    let registrations = m.depot::<Registration>("registrations").hash_by(|r| &r.name);
    let edits = m.depot::<Edit>("edits").hash_by(|edit| &edit.user);
    let t = m.microbatch(|| "users");
    let names = t.pstate::<Map<String, Holder>>("names");
    let profiles = t.pstate::<Map<UserId, Profile>>("profiles");

    t.source(registrations)
        .using(names)
        .filter_map(async |at, names, r: Registration| {
            if at.get(names.key(&r.name)).await?.is_some() {
                // Taken: by another request, which won, or by this one, which was sent twice. In both cases
                // all is done; who asked finds out by looking whose request holds the name.
                return Ok(None);
            }
            // If the microbatch has to be tried again, this is the same id again.
            let user = UserId(at.unique_id());
            at.put(names.key(&r.name), Holder { user, request: r.request })?;
            Ok(Some((user, r)))
        })
        // From the partition of the name to that of the user. It is still one transaction: there is never a
        // name without its profile.
        .hash_by(|(user, _)| user)
        .using(profiles)
        .for_each(async |at, profiles, (user, r): (UserId, Registration)| {
            let profile = profiles.key(user);
            at.put(profile.clone().field(|it| it.display_name), r.name.clone())?;
            at.put(profile.clone().field(|it| it.name), r.name)?;
            at.put(profile.field(|it| it.password_hash), r.password_hash)?;
            Ok(())
        });

    t.source(edits).using(profiles).for_each(async |at, profiles, edit: Edit| {
        let profile = profiles.key(edit.user);
        if at.get(profile.clone().field(|it| it.name)).await?.is_none() {
            return Ok(()); // nobody: an edit makes no user
        }
        for field in edit.fields {
            let profile = profile.clone();
            match field {
                Field::PasswordHash(to) => at.put(profile.field(|it| it.password_hash), to)?,
                Field::DisplayName(to) => at.put(profile.field(|it| it.display_name), to)?,
                Field::HeightCm(to) => at.put(profile.field(|it| it.height_cm), to)?,
            }
        }
        Ok(())
    });
    Users { registrations, edits, names: names.reader(), profiles: profiles.reader() }
}

/// What a service does with a request: the new user's id, or `None` if somebody else has the name.
/// May be called again with the same registration, after a lost connection or a crash.
async fn register(
    users: &Launched<Users>,
    r: &Registration,
) -> tidemill::error::Result<Option<UserId>> {
    let appended = users.append(users.registrations, r).await?;
    users.wait("users", &appended).await?;
    let holder = users.select(users.names.key(&r.name)).await?;
    Ok(holder.filter(|holder| holder.request == r.request).map(|holder| holder.user))
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A directory on a real file system: it is written past the kernel's cache, which tmpfs cannot do.
    let dir = tempfile::tempdir_in(".")?;
    block_on(async {
        let engine = Engine::open(dir.path(), Options::default()).await?;
        let users = engine.launch("users", users).await?;

        // A browser draws the ids of requests; these are made up.
        let [first, second] = [1, 2].map(|request| Registration {
            name: "ann".to_owned(),
            request: Uuid::from_u128(request),
            password_hash: format!("hash {request}"),
        });
        let ann = register(&users, &first).await?.expect("the name was free");
        println!("the first request for `ann` gets the user {:032x}", ann.0);
        println!("the second one gets {:?}", register(&users, &second).await?);
        let again = register(&users, &first).await?;
        println!("the first once more gets the same: {}", again == Some(ann));

        let fields = vec![Field::DisplayName("Ann of the Tides".to_owned()), Field::HeightCm(171)];
        let appended = users.append(users.edits, &Edit { user: ann, fields }).await?;
        users.wait("users", &appended).await?;

        // Fields are read one by one, too; several at once as a tuple, at one moment.
        let profile = users.profiles.key(ann);
        let (name, shown, height) = users
            .select((
                profile.clone().field(|it| it.name),
                profile.clone().field(|it| it.display_name),
                profile.field(|it| it.height_cm),
            ))
            .await?;
        println!("name {name:?}, shown as {shown:?}, height {height:?}");
        engine.close().await
    })?;
    Ok(())
}
