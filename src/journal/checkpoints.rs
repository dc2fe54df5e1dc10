//! Checkpoints: a program that copies a collection notes in one how far it has come. They are small documents, and mean
//! nothing to anybody else.
//!
//! SECURITY: anybody who may log in can have some kept, so all of them are bounded in bytes. The oldest of those who have most
//! give way.

mod kept;

/// Whose checkpoint it is, of what, and what it is called.
#[derive(Debug, Clone)]
pub struct CheckpointName {
    /// The user.
    pub user_id: String,
    /// The URI of the collection.
    pub collection: String,
    /// Its id.
    pub id: String,
}

/// A checkpoint.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// How often it was written.
    pub revision: i64,
    /// What it says: a JSON object.
    pub json: String,
}
