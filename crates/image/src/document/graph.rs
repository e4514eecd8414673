//! An index with all that it names: the images of every platform, and what is
//! attached to them.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{Descriptor, Document, DocumentError, parse_any};
use crate::name::Digest;

/// Indexes in indexes; nobody makes even two.
pub(crate) const INDEX_DEPTH: usize = 4;
/// Far above any real index: a dozen platforms and their attestations.
const DOCUMENTS_MAX: usize = 256;
/// Of all documents together; they are in memory until the image is complete.
const BYTES_MAX: u64 = 8 << 20;
/// Of all images together.
const BLOBS_MAX: usize = 10_000;

/// Finds out what an index names while its reader brings the documents one by one.
#[derive(Debug)]
pub(crate) struct Walk {
    root: Digest,
    wanted: VecDeque<Descriptor>,
    seen: HashSet<Digest>,
    named: HashMap<Digest, (Descriptor, Vec<Digest>)>,
    blobs: Vec<Descriptor>,
    counted: HashSet<Digest>,
    bytes: u64,
}

/// All that an index names.
#[derive(Debug)]
pub(crate) struct Graph {
    /// Those that others name first; the root is the last.
    pub(crate) documents: Vec<Descriptor>,
    /// Configurations and layers, each once.
    pub(crate) blobs: Vec<Descriptor>,
}

impl Walk {
    pub(crate) fn new(root: Descriptor) -> Self {
        Self {
            root: root.digest.clone(),
            seen: HashSet::from([root.digest.clone()]),
            wanted: VecDeque::from([root]),
            named: HashMap::new(),
            blobs: Vec::new(),
            counted: HashSet::new(),
            bytes: 0,
        }
    }

    /// The document that is to be added next; `None` if all are there.
    pub(crate) fn next(&mut self) -> Option<Descriptor> {
        self.wanted.pop_front()
    }

    /// Adds the document that `descriptor` names, whose digest the caller has checked.
    ///
    /// # Errors
    /// [`DocumentError`] for one that is refused, and if there is too much of it.
    pub(crate) fn add(
        &mut self,
        descriptor: Descriptor,
        bytes: &[u8],
    ) -> Result<(), DocumentError> {
        let name = descriptor.digest.to_string();
        let too_many = |limit: u64, unit| DocumentError::TooLarge {
            what: "index",
            name: self.root.to_string(),
            limit,
            unit,
        };
        self.bytes += bytes.len() as u64;
        if self.bytes > BYTES_MAX {
            return Err(too_many(BYTES_MAX, "bytes of documents"));
        }
        if descriptor.size != bytes.len() as u64 {
            return Err(DocumentError::Invalid {
                what: "index",
                name,
                why: "states a wrong size for a manifest".to_owned(),
            });
        }
        let mut children = Vec::new();
        match parse_any(bytes, &name, &[&descriptor.media_type])? {
            Document::Manifest(manifest) => {
                for blob in manifest.layers.into_iter().chain([manifest.config]) {
                    if !blob.urls.is_empty() {
                        return Err(DocumentError::Unsupported {
                            name: format!("layer {}", blob.digest),
                            why:
                                "it lies on other servers than the registry, which are not trusted"
                                    .to_owned(),
                        });
                    }
                    if self.counted.insert(blob.digest.clone()) {
                        self.blobs.push(blob);
                    }
                }
                if self.blobs.len() > BLOBS_MAX {
                    return Err(too_many(BLOBS_MAX as u64, "blobs"));
                }
            }
            Document::Index(named) => {
                for child in named {
                    children.push(child.digest.clone());
                    if self.seen.insert(child.digest.clone()) {
                        self.wanted.push_back(child);
                    }
                }
                if self.seen.len() > DOCUMENTS_MAX {
                    return Err(too_many(DOCUMENTS_MAX as u64, "documents"));
                }
            }
        }
        self.named
            .insert(descriptor.digest.clone(), (descriptor, children));
        Ok(())
    }

    /// What was found, in the order in which a registry takes it.
    ///
    /// # Errors
    /// [`DocumentError::Invalid`] if indexes are nested too deep.
    pub(crate) fn finish(self) -> Result<Graph, DocumentError> {
        let mut documents = Vec::new();
        let mut placed = HashSet::new();
        self.place(&self.root, 1, &mut placed, &mut documents)?;
        Ok(Graph {
            documents,
            blobs: self.blobs,
        })
    }

    fn place(
        &self,
        digest: &Digest,
        depth: usize,
        placed: &mut HashSet<Digest>,
        documents: &mut Vec<Descriptor>,
    ) -> Result<(), DocumentError> {
        if depth > INDEX_DEPTH {
            return Err(DocumentError::Invalid {
                what: "index",
                name: self.root.to_string(),
                why: "is nested too deep".to_owned(),
            });
        }
        let Some((descriptor, children)) = self.named.get(digest) else {
            return Ok(());
        };
        if !placed.insert(digest.clone()) {
            return Ok(());
        }
        for child in children {
            self.place(child, depth + 1, placed, documents)?;
        }
        documents.push(descriptor.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::OCI_INDEX;

    const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    fn described(kind: &str, bytes: &[u8]) -> Descriptor {
        Descriptor {
            media_type: kind.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            urls: Vec::new(),
            platform: None,
            annotations: None,
        }
    }

    fn index(children: &[&Descriptor]) -> Vec<u8> {
        let text = serde_json::json!({"schemaVersion": 2, "manifests": children});
        text.to_string().into_bytes()
    }

    fn manifest(seed: u32) -> Vec<u8> {
        let blob = |n: u32| {
            let digest = Digest::of(format!("{seed} {n}").as_bytes());
            serde_json::json!({"mediaType": "x/y", "digest": digest, "size": 1})
        };
        // Of a kind that cannot be run, as attestations are.
        let text = serde_json::json!({"schemaVersion": 2, "config": blob(0),
                                      "layers": [blob(1), blob(1)]});
        text.to_string().into_bytes()
    }

    fn walk(all: &[Vec<u8>], root: Descriptor) -> Result<Graph, DocumentError> {
        let mut walk = Walk::new(root);
        while let Some(wanted) = walk.next() {
            let found = all.iter().find(|bytes| wanted.digest.matches(bytes));
            walk.add(wanted, found.unwrap())?;
        }
        walk.finish()
    }

    #[test]
    fn what_is_named_comes_before_what_names_it_whichever_way_leads_there() {
        let leaf = manifest(1);
        let leaf_described = described(OCI_MANIFEST, &leaf);
        let inner = index(&[&leaf_described]);
        let inner_described = described(OCI_INDEX, &inner);
        // The leaf is named by the root too, before the index that names it.
        let root = index(&[&leaf_described, &inner_described]);
        let root_described = described(OCI_INDEX, &root);
        let all = [leaf, inner, root];
        let graph = walk(&all, root_described.clone()).unwrap();
        let order: Vec<_> = graph.documents.iter().map(|d| &d.digest).collect();
        let expect = [&leaf_described, &inner_described, &root_described].map(|d| &d.digest);
        assert_eq!(order, expect);
        assert_eq!(graph.blobs.len(), 2);
    }

    #[test]
    fn depth_and_number_have_limits() {
        let mut all = vec![manifest(1)];
        let mut top = described(OCI_MANIFEST, &all[0]);
        for depth in 1..6 {
            let bytes = index(&[&top]);
            top = described(OCI_INDEX, &bytes);
            all.push(bytes);
            let deep = walk(&all, top.clone());
            assert_eq!(deep.is_err(), depth + 1 > INDEX_DEPTH, "{depth}");
        }
        let many: Vec<_> = (0..300).map(manifest).collect();
        let children: Vec<_> = many.iter().map(|m| described(OCI_MANIFEST, m)).collect();
        let root = index(&children.iter().collect::<Vec<_>>());
        let described = described(OCI_INDEX, &root);
        let error = walk(&[many, vec![root]].concat(), described).unwrap_err();
        assert!(matches!(error, DocumentError::TooLarge { .. }), "{error}");
    }
}
