//! Metrics with labels from closed sets, found by index: counting takes no lock and no hash.

use std::fmt::Debug;
use std::marker::PhantomData;

use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::registry::Registry;

/// A label, as Prometheus has it.
pub(crate) type Pair = (&'static str, &'static str);

/// A closed set of labels, or of combinations of labels.
pub trait Labels: Copy {
    /// How many there are.
    const COUNT: usize;

    /// The place of this one, below [`Self::COUNT`].
    fn index(self) -> usize;

    /// The one at a place below [`Self::COUNT`].
    fn at(index: usize) -> Self;

    /// Adds name and value of each label.
    fn push(self, pairs: &mut Vec<(&'static str, &'static str)>);
}

impl<A: Labels, B: Labels> Labels for (A, B) {
    const COUNT: usize = A::COUNT * B::COUNT;

    fn index(self) -> usize {
        self.0.index() * B::COUNT + self.1.index()
    }

    fn at(index: usize) -> Self {
        (A::at(index / B::COUNT), B::at(index % B::COUNT))
    }

    fn push(self, pairs: &mut Vec<(&'static str, &'static str)>) {
        self.0.push(pairs);
        self.1.push(pairs);
    }
}

/// One metric for each member of a closed set of labels.
#[derive(Debug)]
pub struct Series<L, M> {
    cells: Box<[M]>,
    labels: PhantomData<fn(L)>,
}

impl<L: Labels, M> Series<L, M>
where
    M: EncodeMetric + TypedMetric + Clone + Debug + Send + Sync + 'static,
{
    /// Registers the metric with all its series.
    pub(crate) fn register<C>(registry: &mut Registry, name: &str, help: &str, make: C) -> Self
    where
        C: MetricConstructor<M> + Clone + Send + Sync + 'static,
    {
        let family: Family<Vec<Pair>, M, C> = Family::new_with_constructor(make);
        let cells = (0..L::COUNT).map(|index| {
            let mut pairs = Vec::new();
            L::at(index).push(&mut pairs);
            family.get_or_create_owned(&pairs)
        });
        let cells = cells.collect();
        registry.register(name, help, WithoutDebug(family));
        Self { cells, labels: PhantomData }
    }

    /// The metric of these labels.
    pub fn of(&self, labels: L) -> &M {
        &self.cells[labels.index()]
    }
}

/// The registry asks for `Debug`, which closures, as constructors, do not have.
struct WithoutDebug<T>(T);

impl<T> Debug for WithoutDebug<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Family")
    }
}

impl<T: EncodeMetric> EncodeMetric for WithoutDebug<T> {
    fn encode(&self, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> prometheus_client::metrics::MetricType {
        self.0.metric_type()
    }
}
