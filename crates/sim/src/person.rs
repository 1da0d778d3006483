//! What people do with kubectl while a rollout runs, and what befalls devices.

use wardring_api::{Abort, Hold, names};

use crate::{
    api::{Kind, Object, Stored, Write},
    clock::wall,
    hub::Hub,
};

/// One thing that a person does.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Order {
    Apply(Box<Object>),
    Suspend(String),
    Resume(String),
    Abort(String),
    Delete(String),
    Retry(String),
    DeleteJob(String),
    HoldDevice(String),
    LetGoDevice(String),
    Release(String),
    DeleteDevice(String),
    LiftStop(String),
}

/// Carries an order out on what is there now.
pub fn obey(hub: &mut Hub, order: Order) {
    hub.tell(format!("person: {}", told(&order)));
    match order {
        Order::Apply(object) => drop(hub.commit("person", Write::Create(*object))),
        Order::Suspend(name) => rollout(hub, &name, |all| all.spec.suspend = Some(true)),
        Order::Resume(name) => rollout(hub, &name, |all| all.spec.suspend = Some(false)),
        Order::Abort(name) => rollout(hub, &name, |all| {
            all.spec.abort.get_or_insert(Abort { reason: "enough".to_owned() });
        }),
        Order::Retry(name) => {
            let stamp = wall(hub.now).to_string();
            rollout(hub, &name, |all| {
                let annotations = all.metadata.annotations.get_or_insert_default();
                annotations.insert(names::RETRY_ANNOTATION.to_owned(), stamp);
            });
        }
        Order::Delete(name) => delete(hub, Kind::Rollout, &name),
        Order::DeleteJob(name) => delete(hub, Kind::Job, &name),
        Order::DeleteDevice(name) => delete(hub, Kind::Device, &name),
        Order::LiftStop(name) => delete(hub, Kind::Stop, &name),
        Order::HoldDevice(name) => device(hub, &name, |device| {
            device.spec.hold = Some(Hold { reason: "month end".to_owned(), until: None });
        }),
        Order::LetGoDevice(name) => device(hub, &name, |device| device.spec.hold = None),
        Order::Release(name) => {
            let stamp = wall(hub.now).to_string();
            device(hub, &name, |device| {
                let annotations = device.metadata.annotations.get_or_insert_default();
                annotations.insert(names::RELEASE_ANNOTATION.to_owned(), stamp);
            });
        }
    }
}

fn told(order: &Order) -> String {
    match order {
        Order::Apply(object) => format!("applies {:?} {}", object.kind(), object.name()),
        other => format!("{other:?}"),
    }
}

fn rollout(hub: &mut Hub, name: &str, change: impl FnOnce(&mut wardring_api::PatchRollout)) {
    let Some(stored) = hub.api.get(Kind::Rollout, name).cloned() else { return };
    let Stored { uid, version, object: Object::Rollout(rollout) } = stored else { return };
    let mut rollout = (*rollout).clone();
    let spec = rollout.spec.clone();
    change(&mut rollout);
    if rollout.spec != spec {
        rollout.metadata.generation = rollout.metadata.generation.map(|number| number + 1);
    }
    drop(hub.commit("person", Write::Replace { uid, version, object: rollout.into() }));
}

fn device(hub: &mut Hub, name: &str, change: impl FnOnce(&mut wardring_api::Device)) {
    let Some(stored) = hub.api.get(Kind::Device, name).cloned() else { return };
    let Stored { uid, version, object: Object::Device(device) } = stored else { return };
    let mut device = (*device).clone();
    change(&mut device);
    drop(hub.commit("person", Write::Replace { uid, version, object: device.into() }));
}

fn delete(hub: &mut Hub, kind: Kind, name: &str) {
    let Some(uid) = hub.api.get(kind, name).map(|stored| stored.uid.clone()) else { return };
    let write = Write::Delete { key: (kind, name.to_owned()), uid, version: None };
    drop(hub.commit("person", write));
}
